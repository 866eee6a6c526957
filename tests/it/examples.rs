//! Every example of every `--help` works in an empty folder with nothing but the
//! program.

use super::program::text;
use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// An example without `--seeds` that still computes after this time was accepted:
/// everything that can be wrong with what was typed is found out before.
const ACCEPTED: Duration = Duration::from_millis(1_500);

/// By then an example must end that others build on.
const END: Duration = Duration::from_secs(300);

/// A shell in an empty folder, whose only program of ours is `sim`.
struct Shell {
    folder: TempDir,
}

impl Shell {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        fs::create_dir(folder.path().join("bin")).expect("made");
        fs::create_dir(folder.path().join("empty")).expect("made");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sim"), folder.path().join("bin/sim"))
            .expect("linked");
        Self { folder }
    }

    fn here(&self) -> std::path::PathBuf {
        self.folder.path().join("empty")
    }

    fn start(&self, line: &str) -> Child {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = |name: &str| File::create(self.folder.path().join(name)).expect("a file");
        Command::new("sh")
            .args(["-c", line])
            .current_dir(self.here())
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env("HOME", self.here())
            .env_remove("SIM_TRACES")
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .process_group(0)
            .spawn()
            .expect("a shell")
    }

    /// Runs a line to its end, or as long as `limit`; says why it failed, if it did.
    fn run(&self, line: &str, limit: Duration) -> Result<(), String> {
        let mut child = self.start(line);
        let mut left = limit;
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break Some(status),
                None if left.is_zero() => break None,
                None => {
                    let step = Duration::from_millis(20).min(left);
                    std::thread::sleep(step);
                    left -= step;
                }
            }
        };
        kill(&mut child);
        let mut said = String::new();
        let mut stderr = File::open(self.folder.path().join("stderr")).expect("written");
        stderr.read_to_string(&mut said).expect("UTF-8");
        match status {
            Some(status) if !status.success() => Err(format!("{status}: {said}")),
            None if said.contains("error:") || limit == END => Err(said),
            _ => Ok(()),
        }
    }
}

/// Ends a shell with everything that it started.
fn kill(child: &mut Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    let _ = child.wait();
}

/// The examples that a command's help shows, without the words behind them.
fn examples(help: &str) -> Vec<String> {
    let block = help.split("Examples:\n").nth(1).expect("examples");
    let mut found: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.lines().take_while(|line| line.starts_with("  ")) {
        let whole = line.trim().split("  ").next().expect("a first part");
        let part = whole.strip_suffix('\\').map_or(whole, str::trim_end);
        match found.last_mut().filter(|_| goes_on) {
            Some(before) => *before = format!("{before} {part}"),
            None => found.push(part.to_owned()),
        }
        goes_on = whole.len() > part.len();
    }
    found
}

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(args).arg("--help").output();
    text(&output.expect("the program").stdout).to_owned()
}

/// The commands that help lists, subcommands of `trace` included.
fn commands() -> Vec<Vec<String>> {
    let listed = |args: &[&str]| -> Vec<String> {
        let help = help(args);
        let block = help.split("Commands:\n").nth(1).unwrap_or_default();
        let names = block.lines().take_while(|line| !line.is_empty());
        let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("    "));
        let names = names.filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(str::to_owned).collect()
    };
    let mut all = vec![Vec::new()];
    for name in listed(&[]) {
        all.extend(listed(&[&name]).into_iter().map(|inner| vec![name.clone(), inner]));
        all.push(vec![name]);
    }
    all
}

/// The first of three ports in a row that are free now.
fn free_ports() -> u16 {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let started = (0..100).map(|_| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.local_addr().expect("an address").port()
    });
    let mut fitting = started.filter(|port| *port < 60_000 && (0..3).all(|more| free(port + more)));
    fitting.next().expect("three free ports")
}

/// A line with the ports of `sim serve` and `sim ui` moved to free ones; `servers` gets what
/// must serve there.
fn with_servers(line: &str, shell: &Shell, servers: &mut Vec<Child>) -> String {
    if line.starts_with("sim serve ") {
        return format!("{line} --port {}", free_ports());
    }
    if line.starts_with("sim ui") && !line.contains("--worker") {
        return format!("{} --port 0", line.replace(" --port 9000", ""));
    }
    if !line.contains("http://127.0.0.1:") {
        return line.to_owned();
    }
    // `sim live NAME` asks servers that are as the experiment says.
    let mut words = line.split(' ').skip(1);
    let name = match words.next() {
        Some("live") => words.next().expect("an experiment"),
        _ => "mid-1w",
    };
    let port = free_ports();
    servers.push(shell.start(&format!("sim serve {name} --port {port}")));
    let workers = line.matches("http://").count();
    for worker in (port..).take(workers) {
        let up = (0..1_000).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            TcpStream::connect((Ipv4Addr::LOCALHOST, worker)).is_ok()
        });
        assert!(up, "{line}: no server");
    }
    let first = if line.contains(":8200") { 8200 } else { 8000 };
    // Simulated servers have no way to empty their caches from outside.
    let kept = match command_of(line) {
        "live" => " --keep-caches",
        "ui" => " --keep-caches --port 0",
        _ => "",
    };
    (0..3).fold(format!("{line}{kept}"), |line, more| {
        line.replace(&format!(":{}", first + more), &format!(":{}", port + more))
    })
}

/// The command of a line.
fn command_of(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default()
}

/// What examples of `sim external` and `sim replay` take for granted: routers of one's own.
fn write_routers(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = |from: &str, to: &str| {
        fs::copy(root.join(from), folder.join(to)).expect("copied");
    };
    copy("sdk/python/sim_router.py", "sim_router.py");
    copy("examples/routers/round_robin.py", "my_router.py");
    let program = folder.join("my-router");
    fs::write(&program, "#!/bin/sh\nexec python3 my_router.py\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("may run");
}

/// Lines that need what no test can have in an empty folder: a router that listens at a
/// socket, a trace of a real deployment.
const NOT_HERE: [&str; 2] = ["--check-socket", "request-trace"];

/// Runs the examples of a command one after another in one folder.
fn failures(command: &[String]) -> Vec<String> {
    let args: Vec<&str> = command.iter().map(String::as_str).collect();
    let shell = Shell::new();
    let mut servers = Vec::new();
    let mut failed = Vec::new();
    let examples = examples(&help(&args));
    assert!(!examples.is_empty(), "{command:?}");
    if matches!(args[..], ["external" | "replay"]) {
        write_routers(&shell.here());
    }
    let here = |line: &&String| !NOT_HERE.iter().any(|word| line.contains(word));
    for example in examples.iter().filter(here) {
        let example = example.replace("| man -l -", "> /dev/null");
        let mut run = || {
            let line = with_servers(&example, &shell, &mut servers);
            let others_build_on_it = line.contains("--seeds")
                || line.starts_with("sim replay ") && line.contains("--record");
            shell.run(&line, if others_build_on_it { END } else { ACCEPTED })
        };
        // Between looking for free ports and taking them another program may take one.
        let taken = |result: &Result<(), String>| {
            result.as_ref().is_err_and(|problem| problem.contains("Address already in use"))
        };
        let mut result = run();
        for _ in 0..3 {
            if taken(&result) {
                result = run();
            }
        }
        if let Err(problem) = result {
            failed.push(format!("{command:?}: {example}: {problem}"));
        }
    }
    servers.iter_mut().for_each(kill);
    failed
}

#[test]
fn every_example_of_every_help_works_from_an_empty_folder() {
    let commands = commands();
    assert!(commands.len() > 18, "{commands:?}");
    let failed: Vec<String> = commands.iter().flat_map(|command| failures(command)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn examples_are_read_whole() {
    let help = "Usage\n\nExamples:\n  sim a b   what it does\n  sim c \\\n      --over d=1\n\nMore\n  sim e\n";
    assert_eq!(examples(help), ["sim a b", "sim c --over d=1"]);
}

/// What stands in the way of a name is a file of that name, and what of a file its
/// absence.
#[test]
fn shipped_experiments_run_by_name() {
    let shell = Shell::new();
    let run = |line: &str| shell.run(line, END);
    let one = "--seeds 1 --no-figures --set measure.warmup=1s --set measure.window=2s";
    run(&format!("sim run blow-up-180 {one}")).expect("by name");
    let runs = fs::read_to_string(shell.here().join("plots/blow-up-180/runs.json")).expect("saved");
    assert!(runs.contains("\"experiment\": \"blow-up-180\""), "{runs}");
    run("sim explain plots/blow-up-180 --worst ttft --policy kv").expect("found again");
    let wrong = run("sim run blow-up-18").expect_err("no such experiment");
    assert!(wrong.contains("did you mean blow-up-180"), "{wrong}");
    let wrong = run("sim run experiments/blow-up-180.toml").expect_err("no such file");
    assert!(
        wrong.contains("experiments/blow-up-180.toml: cannot be read: No such file"),
        "{wrong}"
    );

    // A copy is the same experiment under another name.
    run("sim init --from doks-3xh200 mine").expect("copied");
    run(&format!(
        "sim run mine {one} --set workload.concurrency=60 --set measure.quantiles=requests \
         --set sweep.router.policy=kv,round_robin"
    ))
    .expect_err("snapshots are still set");
    assert!(Path::new(&shell.here().join("mine/published/doks-3xh200.csv")).is_file());
    let copy = fs::read_to_string(shell.here().join("mine/experiment.toml")).expect("copied");
    assert!(copy.contains("\nname = \"mine\" "), "{copy}");
}
