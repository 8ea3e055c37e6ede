//! `coldframe run` at a terminal: the command owns the terminal, an interrupt reaches it once, and progress is shown only there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::run::Fixture;

/// Runs a command on its own pseudoterminal and types `typed` after it prints `ready`. Returns the exit code and the output.
fn at_a_terminal(command: &Command, typed: &[u8]) -> (i32, String) {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let far = File::options().read(true).write(true).open(ptsname(&near, Vec::new()).unwrap().to_str().unwrap()).unwrap();
    let stdio = || Stdio::from(far.try_clone().unwrap());
    let mut session = Command::new("setsid");
    session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
    session
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(command.get_current_dir().unwrap());
    let mut child = session.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    drop((session, far));
    let (mut near, mut shown, mut piece) = (File::from(near), Vec::new(), [0; 4096]);
    let mut typed = Some(typed);
    // Reading fails after the last holder of the far end has closed it.
    while let Ok(read @ 1..) = near.read(&mut piece) {
        shown.extend_from_slice(&piece[..read]);
        if String::from_utf8_lossy(&shown).contains("ready") {
            typed.take().into_iter().for_each(|typed| near.write_all(typed).unwrap());
        }
    }
    (child.wait().unwrap().code().unwrap_or(-1), String::from_utf8_lossy(&shown).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_shown_only_on_a_terminal() {
    let fixture = Fixture::new().await;
    let words = ["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo ready"];
    let (code, shown) = at_a_terminal(fixture.command(&[], &words).env("TERM", "xterm"), b"");
    assert_eq!(code, 0, "{shown}");
    let (progress, ready) = (shown.find("coldframe: starting"), shown.find("ready"));
    assert!(progress.is_some() && progress < ready, "{shown:?}");
    assert!(shown.contains("no package was requested"), "{shown:?}");
    // The progress line is erased before the command's own output.
    assert!(shown[progress.unwrap()..ready.unwrap()].contains("\u{1b}[2K"), "{shown:?}");
    let (_, _, errors) = crate::process::run(&mut fixture.command(&[], &["true"]));
    assert!(!errors.contains("starting") && !errors.contains('\u{1b}'), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_interrupt_reaches_the_command_once() {
    let fixture = Fixture::new().await;
    let script =
        "trap 'echo got; n=$((n+1))' INT; echo ready; while [ -z \"$n\" ]; do sleep 0.05; done; sleep 0.3; exit $((40+n))";
    let (code, shown) = at_a_terminal(&fixture.command(&[], &["sh", "-c", script]), b"\x03");
    assert_eq!((code, shown.matches("got").count()), (41, 1), "{shown}");
    assert!(shown.contains("no package was requested") && fixture.is_clean(), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_input_reaches_the_command() {
    let fixture = Fixture::new().await;
    let script = "echo ready; read -r line; echo \"it was <$line>\"";
    let (code, shown) = at_a_terminal(&fixture.command(&[], &["sh", "-c", script]), b"yes\n");
    assert!(code == 0 && shown.contains("it was <yes>"), "{code} {shown}");
}
