//! Nothing outlives a run: a small shell process holds the list of what to stop and remove.
//!
//! A destructor does not run when this process is interrupted or killed, and the standard
//! library has no signal handling. So the list lives in a process of its own, in its own
//! process group (a ctrl-c at the terminal does not reach it), which reads it from a pipe. The
//! pipe closes when we end, however we end; then it stops the processes and removes the folders.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::Result;
use crate::error::Context;

/// Reads `kill PID`, `quit PID` (PostgreSQL's immediate shutdown), `forget PID`, `remove DIR`,
/// `removed DIR` until the pipe closes, then acts. Folders are kept one a line.
const SCRIPT: &str = r#"
kills=" " quits=" " dirs=""
while read -r verb arg; do
  case $verb in
    kill) kills="$kills$arg " ;;
    quit) quits="$quits$arg " ;;
    forget)
      case $kills in *" $arg "*) kills="${kills%%" $arg "*} ${kills#*" $arg "}" ;; esac
      case $quits in *" $arg "*) quits="${quits%%" $arg "*} ${quits#*" $arg "}" ;; esac ;;
    remove) dirs="$dirs$arg
" ;;
    removed) dirs=$(printf '%s' "$dirs" | grep -vxF -- "$arg")
      dirs="$dirs${dirs:+
}" ;;
  esac
done
for pid in $kills; do kill -KILL "$pid" 2>/dev/null; done
for pid in $quits; do
  kill -QUIT "$pid" 2>/dev/null || continue
  tries=100
  while kill -0 "$pid" 2>/dev/null && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
  kill -KILL "$pid" 2>/dev/null
done
printf '%s' "$dirs" | while read -r dir; do rm -rf -- "$dir"; done
"#;

static GUARD: Mutex<Option<ChildStdin>> = Mutex::new(None);

fn tell(verb: &str, what: &str) {
    let mut guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        let spawned = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        *guard = spawned.ok().and_then(|mut child| child.stdin.take());
    }
    if let Some(pipe) = guard.as_mut() {
        // Without the guard, destructors still clean up on every ordinary path.
        let _written = writeln!(pipe, "{verb} {what}");
    }
}

/// Kills this process of ours if it still runs when we end.
pub fn kill_at_exit(pid: u32) {
    tell("kill", &pid.to_string());
}

/// Shuts this PostgreSQL down at once if it still runs when we end.
pub fn quit_at_exit(pid: u32) {
    tell("quit", &pid.to_string());
}

/// This process has ended and was reaped: its id may belong to another one soon.
pub fn forget(pid: u32) {
    tell("forget", &pid.to_string());
}

/// A folder that is removed when dropped, and when this process dies.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    keep: bool,
}

impl TempDir {
    /// A new, empty folder, open to its owner only.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        Self::new_in(&std::env::temp_dir(), name)
    }

    /// The same, in a folder that is there.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new_in(base: &Path, name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut attempt = 0_u32;
        loop {
            let path = base.join(format!("weftkit-{name}-{}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    tell("remove", &path.to_string_lossy());
                    return Ok(Self { path, keep: false });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => attempt += 1,
                Err(error) => {
                    return Err(error).context(|| format!("make the folder {}", path.display()));
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves the folder when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        tell("removed", &self.path.to_string_lossy());
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if std::fs::remove_dir_all(&self.path).is_ok() {
            tell("removed", &self.path.to_string_lossy());
        }
    }
}
