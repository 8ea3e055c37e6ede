# `docker build` of an application through the gateway of Coldframe:
#
#   coldframe ca export > coldframe-ca.pem
#   docker build --file build.Dockerfile --secret id=coldframe-ca,src=coldframe-ca.pem \
#       --build-arg HTTPS_PROXY=http://coldframe.example:8080 --build-arg HTTP_PROXY=http://coldframe.example:8080 .
#
# The proxy settings are BuildKit's predefined arguments: not in layers, history or cache keys. The certificate is a secret of
# one step, so the image does not contain or trust it. To enforce the gateway, use a builder that is only on the internal
# network of compose.yaml and pulls through the gateway (set `COLDFRAME_ALLOW_HOST` to the image registry):
#
#   docker buildx create --name enclosed --driver docker-container --driver-opt network=coldframe-sidecar_inside \
#       --driver-opt env.HTTPS_PROXY=http://coldframe:8080
ARG IMAGE=node:lts-slim
FROM ${IMAGE} AS app
WORKDIR /app
COPY package.json package-lock.json ./
# yarn 4 reads only its own variables. deno reads DENO_CERT.
RUN --mount=type=secret,id=coldframe-ca,target=/run/secrets/coldframe-ca.pem,required=true \
    NODE_EXTRA_CA_CERTS=/run/secrets/coldframe-ca.pem YARN_HTTPS_PROXY=${HTTPS_PROXY} YARN_HTTP_PROXY=${HTTP_PROXY} \
    npm ci
COPY . .
USER 1000:1000
CMD ["node", "."]
