//! The marks: what a file holds that malware needs and most packages do not. One mark alone means little.

/// What a mark lets code do, or hide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    /// Reads credentials, or all of the environment.
    Secret,
    /// Reads who and where the user is.
    Identity,
    Network,
    /// Contacts a service that collects what anyone sends.
    DropSite,
    /// Calls a program that downloads.
    Download,
    /// Passes a download to a shell.
    PipeToShell,
    Spawn,
    Eval,
    Decode,
    /// Runs text that it decodes in the same expression.
    RunsDecoded,
    /// Makes a file executable, or starts a process that outlives it.
    Detach,
    /// Hides the address of a server.
    HiddenAddress,
    /// Publishes packages, or manages tokens.
    Publish,
    /// Changes repositories or their workflows.
    Repository,
    HiddenText,
    Obfuscation,
    /// Holds a long encoded text.
    Blob,
}

macro_rules! marks {
    ($($variant:ident: $capability:ident, $what:literal, [$($token:literal),*];)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Mark { $($variant,)* }

        impl Mark {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub(crate) fn capability(self) -> Capability {
                match self { $(Self::$variant => Capability::$capability,)* }
            }

            /// Continues "this file".
            pub(crate) fn describe(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }

            /// The texts that show it. Without any, it is computed.
            pub(super) fn tokens(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($token),*],)* }
            }
        }
    };
}

marks! {
    Npmrc: Secret, "names .npmrc", [".npmrc", "_authToken"];
    NpmToken: Secret, "names an npm token", ["NPM_TOKEN", "NODE_AUTH_TOKEN"];
    GithubToken: Secret, "names a GitHub token", ["GITHUB_TOKEN", "GH_TOKEN", "gh auth token"];
    WorkflowToken: Secret, "names a token of workflows", ["ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_RUNTIME_TOKEN"];
    CloudKey: Secret, "names a cloud credential", [
        "AWS_SECRET_ACCESS_KEY", ".aws/credentials", "AZURE_CLIENT_SECRET", "application_default_credentials", "VAULT_TOKEN",
        ".kube/config", ".docker/config.json"
    ];
    MetadataService: Secret, "contacts a cloud's metadata service", ["169.254.169.254", "metadata.google.internal"];
    SshKey: Secret, "names SSH or GPG keys", ["id_rsa", "id_ed25519", ".ssh/", ".gnupg"];
    GitCredentials: Secret, "names stored passwords", [".git-credentials", ".netrc", "/etc/shadow"];
    BrowserData: Secret, "names a browser's or wallet's data", [
        "Login Data", "Local Extension Settings", "wallet.dat", "key4.db", ".config/solana"
    ];
    ShellHistory: Secret, "names a shell's history", [".bash_history", ".zsh_history"];
    WholeEnvironment: Secret, "reads all of the environment", [
        "stringify(process.env)", "stringify(process.env,", "entries(process.env)", "values(process.env)", "dict(os.environ",
        "process['env']", "process[\"env\"]"
    ];
    HostIdentity: Identity, "reads the names of host and user", ["hostname()", "userInfo()", "networkInterfaces()", "whoami"];
    HttpModule: Network, "uses HTTP", [
        "http.request(", "https.request(", "http.get(", "https.get(", "\"https\"", "'https'", "\"http\"", "'http'", "node:http",
        "XMLHttpRequest", "urllib", "\"http2\"", "'http2'"
    ];
    Fetch: Network, "uses fetch", ["fetch(", "sendBeacon(", "WebSocket("];
    HttpLibrary: Network, "uses an HTTP client", [
        "\"axios\"", "'axios'", "\"undici\"", "'undici'", "\"node-fetch\"", "'node-fetch'", "\"got\"", "'got'", "\"request\"",
        "'request'", "\"ws\"", "'ws'"
    ];
    Socket: Network, "uses sockets", [
        "net.connect(", "net.createConnection(", "net.Socket(", "node:net", "node:tls", "\"net\"", "'net'", "\"tls\"", "'tls'"
    ];
    Dns: Network, "uses DNS", ["dns.resolve", "dns.lookup(", "node:dns", "\"dns\"", "'dns'"];
    DropSite: DropSite, "contacts a service that collects what it is sent", [
        "webhook.site", "requestbin", "pipedream.net", "burpcollaborator", "oastify.com", ".oast.", "interact.sh", ".ngrok",
        "api/webhooks/", "api.telegram.org", "pastebin.com/raw", "transfer.sh", "trycloudflare.com"
    ];
    LocateHost: DropSite, "asks a service where the host is", ["ipinfo.io", "api.ipify.org", "ip-api.com", "ipgeolocation.io"];
    Curl: Download, "calls curl or wget", [
        "curl -", "curl http", "wget -", "wget http", "\"curl\"", "'curl'", "\"wget\"", "'wget'"
    ];
    WindowsDownload: Download, "downloads by a command of Windows", [
        "Invoke-WebRequest", "iwr ", "certutil", "bitsadmin", "DownloadString", "DownloadFile", "Start-BitsTransfer"
    ];
    PipeToShell: PipeToShell, "passes a download to a shell", [];
    ChildProcess: Spawn, "starts processes", ["child_process", "Bun.spawn", "subprocess.", "os.system("];
    ExecCall: Spawn, "runs commands", ["execSync(", "spawnSync(", "execFileSync("];
    ScriptHost: Spawn, "calls PowerShell or AppleScript", ["powershell", "osascript", "cscript", "wscript"];
    Eval: Eval, "calls eval", ["eval("];
    FunctionText: Eval, "makes functions from text", ["Function("];
    VmCode: Eval, "compiles text", ["runInThisContext(", "runInNewContext(", "_compile("];
    Base64: Decode, "decodes base64", ["atob(", "\"base64\"", "'base64'", "b64decode", "base64 -d"];
    HexText: Decode, "decodes hexadecimal text", ["\"hex\"", "'hex'"];
    CharCodes: Decode, "makes text from numbers", ["fromCharCode"];
    Decipher: Decode, "decrypts", ["createDecipher"];
    RunsDecoded: RunsDecoded, "runs text that it decodes", [];
    LoadsDecoded: RunsDecoded, "loads a module whose name it decodes", [];
    Chmod: Detach, "makes a file executable", ["chmodSync(", "chmod(", "chmod +x", "chmod 7"];
    Detached: Detach, "starts a process that outlives it", ["detached: true", "detached:true", "detached:!0", "nohup "];
    HiddenWindow: Detach, "hides a window", ["windowsHide: true", "windowsHide:true", "windowsHide:!0", "-WindowStyle Hidden"];
    HiddenAddress: HiddenAddress, "hides an address in encoded text", [
        "\"aHR0c", "'aHR0c", "`aHR0c", "\"68747470", "'68747470", "//:ptth", "//:sptth", "\\x68\\x74\\x74\\x70"
    ];
    NpmPublish: Publish, "publishes packages", ["npm publish", "\"publish\"", "'publish'"];
    NpmAccount: Publish, "uses npm's account endpoints", [
        "-/npm/v1/tokens", "-/whoami", "npm whoami", "text=maintainer:", "npm token "
    ];
    WorkflowFile: Repository, "names workflow files", [".github/workflows"];
    GitPush: Repository, "pushes to repositories", ["git push", "/git/refs", "createOrUpdateFileContents"];
    SecretScanner: Publish, "calls a scanner for secrets", ["trufflehog", "gitleaks"];
    Bidi: HiddenText, "holds characters that reorder text", [];
    InvisibleText: HiddenText, "holds a run of invisible characters", [];
    HexNames: Obfuscation, "has the names of an obfuscator (_0x...)", [];
    EscapedText: Obfuscation, "holds a long text of escapes", [];
    SymbolCode: Obfuscation, "is code of brackets and signs only", [];
    Blob: Blob, "holds a long encoded text", [];
}

/// A set of marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MarkSet(u64);

impl MarkSet {
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u32) != 0
    }

    pub(crate) fn insert(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u32;
    }

    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the marks that `other` lacks.
    #[must_use]
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns the marks of any of these capabilities.
    #[must_use]
    pub(crate) fn of(self, capabilities: &[Capability]) -> Self {
        self.iter().filter(|mark| capabilities.contains(&mark.capability())).collect()
    }

    pub(crate) fn has(self, capabilities: &[Capability]) -> bool {
        !self.of(capabilities).is_empty()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Mark> {
        Mark::ALL.iter().copied().filter(move |mark| self.contains(*mark))
    }
}

impl FromIterator<Mark> for MarkSet {
    fn from_iter<I: IntoIterator<Item = Mark>>(marks: I) -> Self {
        let mut set = Self::default();
        marks.into_iter().for_each(|mark| set.insert(mark));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_marks_fit_into_a_set() {
        assert!(Mark::ALL.len() <= 64);
        let all: MarkSet = Mark::ALL.iter().copied().collect();
        assert_eq!(all.iter().count(), Mark::ALL.len());
        assert_eq!(all.without(all), MarkSet::default());
    }
}
