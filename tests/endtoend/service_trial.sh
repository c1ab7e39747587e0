# What docs/operating.md claims of the service beyond its commands, tried on a computer whose first process is systemd.
# Run by test_systemd.py after the commands of the page, with the units installed and stopped.
set -eu
ctl=/opt/vmbus/bin/vmbusctl
export VMBUS_SOCKET=/run/vmbusd/vmbusd.sock

main_process() { systemctl show --property MainPID --value vmbusd.service; }

until_another_process_than() {
    for _ in $(seq 600); do
        now=$(main_process)
        if [ "$now" != "$1" ] && [ "$now" != 0 ]; then return 0; fi
        sleep 0.1
    done
    return 1
}

# A port for figures that systemd opens, clients over UDP with a key, and a watchdog that is tried in seconds.
install -D -m 644 -t /etc/systemd/system deploy/vmbusd-metrics.socket
install -d -o vmbus -g vmbus -m 700 /etc/vmbusd-keys
keys="setpriv --reuid vmbus --regid vmbus --init-groups env VMBUS_KEYS=/etc/vmbusd-keys $ctl keys"
$keys init
$keys add laptop --grant vm1=guest
sed -i -e 's,^#port =.*,port = 4433,' -e 's,^#keys =.*,keys = "/etc/vmbusd-keys",' /etc/vmbusd.toml
mkdir -p /run/systemd/system/vmbusd.service.d
printf '[Service]\nWatchdogSec=5s\n' >/run/systemd/system/vmbusd.service.d/watchdog.conf
printf 'u member -\nu stranger -\nm member vmbus\n' | systemd-sysusers -
systemctl daemon-reload

systemctl start vmbusd.socket vmbusd-metrics.socket
! systemctl is-active --quiet vmbusd.service
setpriv --reuid member --regid member --init-groups $ctl machines >/dev/null
systemctl is-active --quiet vmbusd.service
echo "trial: the first client starts the service"

! setpriv --reuid stranger --regid stranger --init-groups $ctl machines 2>/run/refusal
cat /run/refusal
grep -q "this user may not attach to $VMBUS_SOCKET" /run/refusal
echo "trial: the group is let in and nobody else"

python3 -S -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:9464/readyz").read().decode())'
echo "trial: figures and health on a port that systemd opened"

killed=$(main_process)
kill -KILL "$killed"
$ctl version
[ "$(main_process)" != "$killed" ]
echo "trial: a client that comes while it restarts waits and is served"

$ctl serve-echo vm1 --checksum >/run/echo &
until grep -q . /run/echo; do sleep 0.1; done
$ctl send vm1 --external README.md --json >/run/answer
grep -q "$(sha256sum README.md | cut -d ' ' -f 1)" /run/answer
echo "trial: packets with external data go through the confined daemon"

VMBUS_CREDENTIALS=/etc/vmbusd-keys/clients/laptop $ctl --connect quic://127.0.0.1:4433 send vm1 --text hello
kill %1
echo "trial: a client with a key comes in over UDP"

stuck=$(main_process)
kill -STOP "$stuck"
until_another_process_than "$stuck"
$ctl machines >/dev/null
echo "trial: a daemon that is stuck is replaced"

systemctl stop vmbusd.service vmbusd.socket vmbusd-metrics.socket
