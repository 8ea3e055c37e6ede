# `docker build` of an application through Coldframe's gateway:
#
#   coldframe ca export > coldframe-ca.pem
#   docker build --file build.Dockerfile --secret id=coldframe-ca,src=coldframe-ca.pem \
#       --build-arg HTTPS_PROXY=http://coldframe.example:8080 --build-arg HTTP_PROXY=http://coldframe.example:8080 .
#
# The proxies are BuildKit's own arguments: they are in no layer, in no history, and no key of the cache; the certificate is a
# secret of one step, so that the image neither holds nor trusts it. To leave the build no other way, have a builder that stands
# on the internal network of compose.yaml alone, and pulls through the gateway (`COLDFRAME_ALLOW_HOST` names where from):
#
#   docker buildx create --name enclosed --driver docker-container --driver-opt network=coldframe-sidecar_inside \
#       --driver-opt env.HTTPS_PROXY=http://coldframe:8080
ARG IMAGE=node:lts-slim
FROM ${IMAGE} AS app
WORKDIR /app
COPY package.json package-lock.json ./
# yarn 4 reads variables of its own alone; deno's is DENO_CERT.
RUN --mount=type=secret,id=coldframe-ca,target=/run/secrets/coldframe-ca.pem,required=true \
    NODE_EXTRA_CA_CERTS=/run/secrets/coldframe-ca.pem YARN_HTTPS_PROXY=${HTTPS_PROXY} YARN_HTTP_PROXY=${HTTP_PROXY} \
    npm ci
COPY . .
USER 1000:1000
CMD ["node", "."]
