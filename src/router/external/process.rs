//! The other end of the lines: a process that runs beside one simulation, or a router that
//! listens at a socket.
//!
//! One thread does it all: it writes a line and waits for the answer, for the errors that
//! the process prints, and for the moment at which it has waited long enough. So a process
//! that does not read, does not answer or prints without end is found out.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// An answer is at most so long (assumed: the costs of 10,000 workers with their parts).
const MOST_ANSWER_BYTES: usize = 4 << 20;

/// How much of what a process prints is kept, from the end.
const MOST_ERROR_BYTES: usize = 4 << 10;

/// So many lines of it are shown.
const SHOWN_LINES: usize = 5;

/// How long a process may take to end once nothing is asked any more (assumed: an
/// interpreter takes some 10 ms).
const GRACE: Duration = Duration::from_secs(1);

/// The processes that run, each the first of a group of its own, so that neither they nor
/// what they start outlives this one. A number is taken off before its process is waited
/// for: until then no other process can have it.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<i32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the processes of all routers, for a program that is about to end itself.
pub fn end_all() {
    let mut running = running();
    std::mem::take(&mut *running).into_iter().for_each(end_group);
}

fn end_group(first: i32) {
    if let Some(first) = Pid::from_raw(first) {
        // All of it may have ended by itself.
        let _ = kill_process_group(first, Signal::KILL);
    }
}

/// Exit code of a process that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Ctrl-C of a terminal does not reach groups of their own. A program that listens for it
/// itself calls [`end_all`]; one that does not gets this.
fn end_all_on_interrupt() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Refused where the program listens for Ctrl-C, or ignores it.
        let _ = ctrlc::try_set_handler(|| {
            end_all();
            std::process::exit(INTERRUPTED);
        });
    });
}

/// Lines to a router and back.
#[derive(Debug)]
pub(super) struct Link {
    child: Option<Child>,
    /// Closed to say that nothing more is asked.
    write: Option<File>,
    read: File,
    errors: Option<File>,
    inbox: Vec<u8>,
    printed: Vec<u8>,
}

impl Link {
    /// Runs `command` in `folder`.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn run(command: &[String], folder: &Path) -> Result<Self, String> {
        let (program, arguments) = command.split_first().ok_or("no command is given")?;
        let failed = |error: std::io::Error| format!("{program:?} cannot be run: {error}");
        let mut program_path = PathBuf::from(program);
        if program_path.components().count() > 1 {
            // What a relative program is relative to differs by platform.
            program_path = std::path::absolute(folder.join(program_path)).map_err(failed)?;
        }
        let mut command = Command::new(program_path);
        command.args(arguments);
        if !folder.as_os_str().is_empty() {
            command.current_dir(folder);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        end_all_on_interrupt();
        let mut running = running();
        let mut child = command.process_group(0).spawn().map_err(failed)?;
        running.extend(number(&child));
        drop(running);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(write), Some(read), Some(errors)) = pipes else {
            unreachable!("all three were asked for")
        };
        Self::new(Some(child), write.into(), read.into(), Some(errors.into()))
    }

    /// Connects to the socket at `path`, which may take `most` of wall time: a socket whose
    /// queue is full blocks new connections.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn connect(path: &Path, most: Duration) -> Result<Self, String> {
        let failed =
            |problem: String| format!("{} cannot be connected to: {problem}", path.display());
        let (send, receive) = mpsc::channel();
        let to = path.to_owned();
        // Left behind if it waits for longer.
        std::thread::spawn(move || send.send(UnixStream::connect(to)));
        let connected = receive.recv_timeout(most).map_err(|_| {
            failed(format!("nothing has accepted for {} s (router.timeout)", most.as_secs_f64()))
        })?;
        let pair = connected.and_then(|stream| Ok((stream.try_clone()?, stream)));
        let (write, read) = pair.map_err(|error| failed(error.to_string()))?;
        Self::new(None, write.into(), read.into(), None)
    }

    fn new(
        child: Option<Child>,
        write: OwnedFd,
        read: OwnedFd,
        errors: Option<OwnedFd>,
    ) -> Result<Self, String> {
        for end in [&write, &read].into_iter().chain(&errors) {
            rustix::io::ioctl_fionbio(end, true).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            child,
            write: Some(write.into()),
            read: read.into(),
            errors: errors.map(File::from),
            inbox: Vec::new(),
            printed: Vec::new(),
        })
    }

    /// Writes `line`, which ends with a line break, and waits for a line in answer, `most`
    /// of wall time.
    ///
    /// # Errors
    /// What happened instead.
    pub(super) fn ask(&mut self, line: &str, most: Duration) -> Result<String, String> {
        self.look()?;
        if !self.inbox.is_empty() {
            let said = shown(&self.inbox);
            return Err(format!("it wrote {said} before it was asked: one line answers one line"));
        }
        let mut left = line.as_bytes();
        let mut until = None;
        loop {
            left = &left[self.write(left)?..];
            if left.is_empty()
                && let Some(answer) = self.answer()?
            {
                return Ok(answer);
            }
            // The clock is not looked at where the answer is there at once.
            let now = now();
            let until = *until.get_or_insert(now + most);
            let Some(rest) = until.checked_duration_since(now).filter(|rest| !rest.is_zero())
            else {
                return Err(self.late(most, left.is_empty()));
            };
            self.wait(!left.is_empty(), rest)?;
            self.look()?;
        }
    }

    /// What is wrong after `most` of wall time.
    fn late(&mut self, most: Duration, has_read: bool) -> String {
        let did = if has_read { "answered" } else { "read" };
        let late = format!("it has not {did} for {} s (router.timeout)", most.as_secs_f64());
        match self.has_ended().then(|| self.reap()).flatten() {
            Some(status) => {
                format!("{late}: it ended ({status}), and something that it started goes on")
            }
            None => late,
        }
    }

    /// What the process printed last.
    pub(super) fn last_words(&mut self) -> Option<String> {
        self.look_at_errors();
        let text = String::from_utf8_lossy(&self.printed);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        (!last.is_empty()).then(|| last.join(" | "))
    }

    /// As much of `bytes` as fits now.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let Some(pipe) = self.write.as_mut().filter(|_| !bytes.is_empty()) else { return Ok(0) };
        loop {
            match pipe.write(bytes) {
                Ok(written) => return Ok(written),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Ok(0),
                    _ => return Err(self.gone()),
                },
            }
        }
    }

    /// Waits until something can be read or, if asked for, written.
    fn wait(&self, to_write: bool, most: Duration) -> Result<(), String> {
        let mut ends = vec![PollFd::new(&self.read, PollFlags::IN)];
        ends.extend(self.errors.iter().map(|errors| PollFd::new(errors, PollFlags::IN)));
        let write = self.write.iter().filter(|_| to_write);
        ends.extend(write.map(|write| PollFd::from_borrowed_fd(write.as_fd(), PollFlags::OUT)));
        let most = Timespec::try_from(most).map_err(|error| error.to_string())?;
        match poll(&mut ends, Some(&most)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes what can be read.
    fn look(&mut self) -> Result<(), String> {
        self.look_at_errors();
        let mut buffer = [0; 8 << 10];
        loop {
            match self.read.read(&mut buffer) {
                Ok(0) => return Err(self.gone()),
                Ok(read) => self.inbox.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(self.gone()),
            }
            if self.inbox.len() > MOST_ANSWER_BYTES {
                return Err(format!("its answer is longer than {MOST_ANSWER_BYTES} bytes"));
            }
            if read_all(&self.inbox) {
                return Ok(());
            }
        }
    }

    fn look_at_errors(&mut self) {
        let Some(errors) = &mut self.errors else { return };
        let mut buffer = [0; MOST_ERROR_BYTES];
        // A process that prints without end is not listened to without end.
        for _ in 0..16 {
            match errors.read(&mut buffer) {
                Ok(0) => {
                    self.errors = None;
                    return;
                }
                Ok(read) => {
                    self.printed.extend_from_slice(&buffer[..read]);
                    let most = self.printed.len().saturating_sub(MOST_ERROR_BYTES);
                    self.printed.drain(..most);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// A line that has come whole.
    fn answer(&mut self) -> Result<Option<String>, String> {
        let Some(end) = self.inbox.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.inbox.drain(..=end).collect();
        let wrong = |line: Vec<u8>| format!("its answer {} is not UTF-8", shown(&line));
        let line = String::from_utf8(line).map_err(|error| wrong(error.into_bytes()))?;
        Ok(Some(line.trim_end().to_owned()))
    }

    /// Why nothing comes any more.
    fn gone(&mut self) -> String {
        if self.child.is_none() {
            return "it closed the connection".to_owned();
        }
        let status = if self.ends() { self.reap() } else { None };
        match status {
            Some(status) => format!("it ended ({status})"),
            None => "it closed its stdin or its stdout".to_owned(),
        }
    }

    /// Whether the process ends within [`GRACE`]. What it prints meanwhile is read: a full
    /// pipe would keep it.
    fn ends(&mut self) -> bool {
        let until = now() + GRACE;
        let mut buffer = [0; 8 << 10];
        loop {
            let has_ended = self.has_ended();
            self.look_at_errors();
            while self.read.read(&mut buffer).is_ok_and(|read| read > 0) && now() < until {}
            if has_ended || now() >= until {
                return has_ended;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the process has ended; there is none behind a socket.
    fn has_ended(&self) -> bool {
        let id = self.child.as_ref().and_then(number).and_then(Pid::from_raw);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        id.is_none_or(|id| matches!(waitid(WaitId::Pid(id), options), Ok(Some(_))))
    }

    /// Ends what still runs of the process and of those that it started.
    fn reap(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        if let Some(first) = number(&child) {
            running().remove(&first);
            end_group(first);
        }
        child.wait().ok()
    }
}

impl Link {
    /// Closes the input of the process, which ends then; if it does not, it is ended, and
    /// this is false.
    pub(super) fn end(&mut self) -> bool {
        self.write = None;
        let has_ended = self.ends();
        self.reap();
        has_ended
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}

/// The number of a process, which is that of its group.
fn number(child: &Child) -> Option<i32> {
    i32::try_from(child.id()).ok()
}

/// Whether a reader need not ask for more: a line has come whole.
fn read_all(inbox: &[u8]) -> bool {
    inbox.ends_with(b"\n")
}

/// The beginning of what was written, for a message.
fn shown(bytes: &[u8]) -> String {
    super::shown(&String::from_utf8_lossy(bytes))
}

/// Wall time, for waiting only: no decision depends on it.
fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "how long a process may take to answer")]
    Instant::now()
}
