//! Explains how to trust the gateway's CA, and installs it into the system store of Debian and Fedora based systems.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustls_pki_types::CertificateDer;

use crate::npm::{Algorithm, Digest};
use crate::text::push_line;
use crate::tls::ca::pem;

/// The trust stores of systems: name, directory, file extension, and the command that loads new certificates.
const STORES: [(&str, &str, &str, &[&str]); 2] = [
    ("Debian", "/usr/local/share/ca-certificates", "crt", &["/usr/sbin/update-ca-certificates"]),
    ("Fedora", "/etc/pki/ca-trust/source/anchors", "pem", &["/usr/bin/update-ca-trust", "extract"]),
];

pub(crate) fn explain(data_dir: &Path) -> String {
    let data_dir = data_dir.display();
    format!(
        r#"# The certificate. It changes with `coldframe ca rotate` only.
coldframe ca export --data-dir '{data_dir}' > coldframe-ca.pem

# npm, pnpm, yarn, bun, deno and other Node programs: one variable that adds to their own roots.
export NODE_EXTRA_CA_CERTS="$PWD/coldframe-ca.pem"

# A `cafile` replaces all other roots. If one is set already, add the certificate to that file, or set
#   npm            npm_config_cafile, or cafile= in .npmrc
#   pnpm           npm_config_cafile (10 and older), pnpm_config_cafile (11 and later), or cafile= in .npmrc
#   yarn 1         cafile in .yarnrc, or YARN_CAFILE (yarn 4 does not start with it)
#   yarn 4         YARN_HTTPS_CA_FILE_PATH, or httpsCaFilePath in .yarnrc.yml
#   bun            NODE_EXTRA_CA_CERTS, or cafile= in bunfig.toml under [install]
#   deno           DENO_CERT
#   git            git config --global http.https://REGISTRY/.sslCAInfo "$PWD/coldframe-ca.pem"
#   curl           curl --cacert coldframe-ca.pem

# Send clients through the gateway. yarn 4 reads only its own variables, and some tools read only one case.
export HTTPS_PROXY=http://GATEWAY:PORT HTTP_PROXY=http://GATEWAY:PORT
export https_proxy="$HTTPS_PROXY" http_proxy="$HTTP_PROXY" YARN_HTTPS_PROXY="$HTTPS_PROXY" YARN_HTTP_PROXY="$HTTP_PROXY"

# For the whole system, as root (`coldframe ca trust --apply` supports the first two):
#   Debian, Ubuntu, Alpine   cp coldframe-ca.pem /usr/local/share/ca-certificates/coldframe.crt && update-ca-certificates
#   Fedora, RHEL             cp coldframe-ca.pem /etc/pki/ca-trust/source/anchors/ && update-ca-trust extract
#   macOS                    security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain coldframe-ca.pem
#   Windows                  certutil -addstore -f Root coldframe-ca.pem
# Node reads the system store only with NODE_USE_SYSTEM_CA=1 or --use-openssl-ca, deno with DENO_TLS_CA_STORE=system.
"#
    )
}

/// Installs the certificates into the system store. Returns a description of the changes.
pub(crate) fn apply(certificates: &[CertificateDer<'_>]) -> anyhow::Result<String> {
    let found = STORES.into_iter().find(|(.., command)| Path::new(command[0]).is_file());
    let unknown = "cannot find `update-ca-certificates` (Debian) or `update-ca-trust` (Fedora)";
    let (family, folder, extension, command) = found.context(unknown)?;
    let mut changes = String::new();
    for certificate in certificates {
        // Named after its digest, so that no other file is overwritten.
        let mark = Digest::of(Algorithm::Sha256, certificate).to_hex();
        let path = Path::new(folder).join(format!("coldframe-{}.{extension}", &mark[..8]));
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, pem(certificate)));
        written.with_context(|| format!("cannot write `{}`", path.display()))?;
        push_line!(changes, "wrote {}", path.display());
    }
    let status = Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "`{}` failed: {status}", command[0]);
    Ok(format!("{changes}{family} trust store updated ({})\n", command.join(" ")))
}
