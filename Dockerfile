# vmbusd in a container, as an ordinary user. Its clients attach through the socket in the volume:
#
#   docker build -t vmbus-emulator .
#   docker run --rm --volume vmbus:/run/vmbus vmbus-emulator
#   docker run --rm --volume vmbus:/run/vmbus --entrypoint vmbusctl vmbus-emulator machines
#
# UDP addresses that machines open are on the loopback interface of the container unless the configuration says otherwise.

FROM python:3.12-slim AS build
# For the compiled ring; without a compiler the installation succeeds too, and the ring runs in plain Python.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python -m venv /opt/vmbus
COPY pyproject.toml setup.py README.md ./
COPY emulator emulator
COPY clients clients
RUN /opt/vmbus/bin/pip install --no-cache-dir --disable-pip-version-check '.[quic]'

# The same base image, so that the interpreter the environment points to is there.
FROM python:3.12-slim
RUN groupadd --system --gid 10001 vmbus \
    && useradd --system --uid 10001 --gid vmbus --no-create-home --shell /usr/sbin/nologin vmbus \
    && install --directory --owner=vmbus --group=vmbus --mode=0750 /run/vmbus
COPY --from=build /opt/vmbus /opt/vmbus
ENV PATH=/opt/vmbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VMBUS_SOCKET=/run/vmbus/vmbusd.sock
USER vmbus
# The directory belongs to the user before it becomes a volume: a new volume takes its owner from here.
VOLUME ["/run/vmbus"]
# A daemon that answers this is listening and serving; it opens a session and closes it again.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 CMD ["vmbusctl", "machines"]
ENTRYPOINT ["vmbusd"]
