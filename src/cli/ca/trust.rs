//! What clients and systems need to trust the gateway's authority, and doing it on the systems whose way is known. Refuses
//! to touch anything unless it is told to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls_pki_types::CertificateDer;

use crate::cli::output::{CliError, Exit};
use crate::npm::{Algorithm, Digest};
use crate::text::push_line;
use crate::tls::ca::pem;

/// A system's store: where certificates are put, how their files end, and what takes them in.
struct SystemTrustStore {
    kin: &'static str,
    folder: &'static str,
    ending: &'static str,
    program: &'static [&'static str],
}

const STORES: [SystemTrustStore; 2] = [
    SystemTrustStore {
        kin: "Debian",
        folder: "/usr/local/share/ca-certificates",
        ending: "crt",
        program: &["/usr/sbin/update-ca-certificates"],
    },
    SystemTrustStore {
        kin: "Fedora",
        folder: "/etc/pki/ca-trust/source/anchors",
        ending: "pem",
        program: &["/usr/bin/update-ca-trust", "extract"],
    },
];

/// The words, as a script with remarks.
pub(crate) fn explain(data_dir: &Path) -> String {
    let data_dir = data_dir.display();
    format!(
        r#"# The certificate. It changes with `coldframe ca rotate` only.
coldframe ca export --data-dir '{data_dir}' > coldframe-ca.pem

# npm, pnpm, yarn, bun, deno and everything else that runs on Node: one variable, beside the roots they have.
export NODE_EXTRA_CA_CERTS="$PWD/coldframe-ca.pem"

# Where a `cafile` is set already, it stands instead of all other roots: put the certificate into that file, or set
#   npm            npm_config_cafile, or cafile= in .npmrc
#   pnpm           npm_config_cafile up to 10, pnpm_config_cafile from 11 on, or cafile= in .npmrc
#   yarn 1         cafile in .yarnrc, or YARN_CAFILE, with which yarn 4 does not start
#   yarn 4         YARN_HTTPS_CA_FILE_PATH, or httpsCaFilePath in .yarnrc.yml
#   bun            NODE_EXTRA_CA_CERTS, or cafile= in bunfig.toml under [install]
#   deno           DENO_CERT
#   git            git config --global http.https://REGISTRY/.sslCAInfo "$PWD/coldframe-ca.pem"
#   curl           curl --cacert coldframe-ca.pem

# Send them through the gateway: yarn 4 reads its own variables only, and some tools read one case only.
export HTTPS_PROXY=http://GATEWAY:PORT HTTP_PROXY=http://GATEWAY:PORT
export https_proxy="$HTTPS_PROXY" http_proxy="$HTTP_PROXY" YARN_HTTPS_PROXY="$HTTPS_PROXY" YARN_HTTP_PROXY="$HTTP_PROXY"

# The whole system, as root (`coldframe ca trust --apply` does the first two):
#   Debian, Ubuntu, Alpine   cp coldframe-ca.pem /usr/local/share/ca-certificates/coldframe.crt && update-ca-certificates
#   Fedora, RHEL             cp coldframe-ca.pem /etc/pki/ca-trust/source/anchors/ && update-ca-trust extract
#   macOS                    security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain coldframe-ca.pem
#   Windows                  certutil -addstore -f Root coldframe-ca.pem
# Node reads the system's store only with NODE_USE_SYSTEM_CA=1 or --use-openssl-ca, deno with DENO_TLS_CA_STORE=system.
"#
    )
}

/// Puts the certificates into this system's store and has it take them in; says what was done.
pub(crate) fn apply(certificates: &[CertificateDer<'_>]) -> Result<String, CliError> {
    let found = STORES.iter().find(|store| Path::new(store.program[0]).is_file());
    let Some(store) = found else {
        let unknown = anyhow::anyhow!("this system has neither Debian's `update-ca-certificates` nor Fedora's `update-ca-trust`");
        return Err(CliError::new(Exit::Failed, unknown));
    };
    let mut told = String::new();
    for certificate in certificates {
        let path = install(store, certificate).map_err(|(path, error)| {
            CliError::new(Exit::Failed, anyhow::Error::new(error).context(format!("cannot write `{}`", path.display())))
        })?;
        // Writing to a `String` cannot fail.
        push_line!(told, "wrote {}", path.display());
    }
    let (program, arguments) = (store.program[0], &store.program[1..]);
    let status = Command::new(program).args(arguments).stdout(std::process::Stdio::null()).status()?;
    if !status.success() {
        return Err(CliError::new(Exit::Failed, anyhow::anyhow!("`{program}` failed: {status}")));
    }
    Ok(format!("{told}{} trusts it now ({})\n", store.kin, store.program.join(" ")))
}

/// One certificate a file, named after what it is, so that none takes another's place.
fn install(store: &SystemTrustStore, certificate: &CertificateDer<'_>) -> Result<PathBuf, (PathBuf, io::Error)> {
    let mark = Digest::of(Algorithm::Sha256, certificate).to_hex();
    let path = Path::new(store.folder).join(format!("coldframe-{}.{}", &mark[..8], store.ending));
    let written = fs::create_dir_all(store.folder).and_then(|()| fs::write(&path, pem(certificate)));
    written.map_err(|error| (path.clone(), error))?;
    Ok(path)
}
