# What programs run in when the executor uses Docker: Python and the libraries, nothing of Goalwright.
# The arguments are those of deploy/Dockerfile; libraries of your own go into a requirements file named by
# REQUIREMENTS.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG CA_BUNDLE=deploy/no-extra-ca.crt
ARG REQUIREMENTS=services/executor/goalwright_executor/libraries.txt
COPY ${CA_BUNDLE} /tmp/ca.crt
COPY services/executor/goalwright_executor/libraries.txt ${REQUIREMENTS} /tmp/libraries/
RUN [ ! -s /tmp/ca.crt ] || export PIP_CERT=/tmp/ca.crt; \
    python3 -m venv /opt/programs \
 && for file in /tmp/libraries/*; do set -- "$@" -r "$file"; done \
 && /opt/programs/bin/pip install --no-cache-dir --disable-pip-version-check --quiet "$@"

FROM ${BASE_IMAGE}
COPY --from=build /opt/programs /opt/programs
ENV PATH=/opt/programs/bin:$PATH
CMD ["python3", "-c", "import matplotlib, numpy, pandas"]
