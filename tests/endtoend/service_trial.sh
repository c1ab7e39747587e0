# What docs/operating.md claims of the service beyond its commands, tried on a computer whose first process is systemd.
# Run by test_systemd.py after the commands of the page, with the units installed and stopped.
set -eu
ctl=/opt/vmbus/bin/vmbusctl
export VMBUS_SOCKET=/run/vmbusd/vmbusd.sock

main_process() { systemctl show --property MainPID --value vmbusd.service; }

until_another_process_than() {
    for _ in $(seq 300); do
        now=$(main_process)
        if [ "$now" != "$1" ] && [ "$now" != 0 ]; then return 0; fi
        sleep 0.1
    done
    return 1
}

systemctl start vmbusd.socket
! systemctl is-active --quiet vmbusd.service
$ctl machines >/dev/null
systemctl is-active --quiet vmbusd.service
echo "trial: the first client starts the service"

killed=$(main_process)
kill -KILL "$killed"
$ctl version
[ "$(main_process)" != "$killed" ]
echo "trial: a client that comes while it restarts waits and is served"

printf 'u member -\nu stranger -\nm member vmbus\n' | systemd-sysusers -
setpriv --reuid member --regid member --init-groups $ctl machines >/dev/null
! setpriv --reuid stranger --regid stranger --init-groups $ctl machines 2>/run/refusal
cat /run/refusal
grep -q "this user may not attach to $VMBUS_SOCKET" /run/refusal
echo "trial: the group is let in and nobody else"

$ctl serve-echo vm1 --checksum >/run/echo &
until grep -q . /run/echo; do sleep 0.1; done
$ctl send vm1 --external README.md --json >/run/answer
kill %1
grep -q "$(sha256sum README.md | cut -d ' ' -f 1)" /run/answer
echo "trial: packets with external data go through the confined daemon"

install -D -m 644 -t /etc/systemd/system deploy/vmbusd-metrics.socket
systemctl daemon-reload
systemctl stop vmbusd.service
systemctl start vmbusd-metrics.socket vmbusd.service
python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:9464/readyz").read().decode())'
echo "trial: figures and health on a port that systemd opened"

install -d -o vmbus -g vmbus -m 700 /etc/vmbusd-keys
keys="setpriv --reuid vmbus --regid vmbus --init-groups env VMBUS_KEYS=/etc/vmbusd-keys $ctl keys"
$keys init
$keys add laptop --grant vm1=guest
sed -i -e 's,^#port =.*,port = 4433,' -e 's,^#keys =.*,keys = "/etc/vmbusd-keys",' /etc/vmbusd.toml
/opt/vmbus/bin/vmbusd --check-config /etc/vmbusd.toml
systemctl restart vmbusd.service
$ctl serve-echo vm1 >/run/echo2 &
until grep -q . /run/echo2; do sleep 0.1; done
export VMBUS_CREDENTIALS=/etc/vmbusd-keys/clients/laptop
$ctl --connect quic://127.0.0.1:4433 send vm1 --text hello
kill %2
echo "trial: a client with a key comes in over UDP"

mkdir -p /run/systemd/system/vmbusd.service.d
printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/vmbusd.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart vmbusd.service
stuck=$(main_process)
kill -STOP "$stuck"
until_another_process_than "$stuck"
$ctl machines >/dev/null
echo "trial: a daemon that is stuck is replaced"

systemctl stop vmbusd.service vmbusd.socket vmbusd-metrics.socket
