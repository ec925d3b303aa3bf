//! `run`: profile the whole system and push, until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::access::AccessArguments;
use crate::app::{self, Failure};

/// Profile every process of this machine and push to a Pyroscope server; without one, to the embedded server, whose
/// page shows a live flame graph.
///
/// Each option is also a key of the configuration file (with underscores) and an environment variable PROFILER_KEY;
/// flags win over the environment, that over the file.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Pyroscope server to push to, such as http://pyroscope:4040 [default: none, the embedded server is started]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    access: AccessArguments,
    /// Where to deliver beside that, each with a queue of its own: a list such as pyroscope=http://one:4040,
    /// ingest=http://older:4040 (Pyroscope before 1.0), directory=/srv/profiles (pprof files, never removed by us)
    /// [default: none]
    #[arg(long, value_name = "LIST")]
    sinks: Option<String>,
    /// Time between two pushes, 1s to 1h [default: 10s]
    #[arg(long, value_name = "DURATION")]
    interval: Option<String>,
    /// The server's idle timeout, 1s to 24h, where you know better; `auto`: what the server says, or what it is seen to
    /// do [default: auto]
    #[arg(long, value_name = "DURATION")]
    keepalive_timeout: Option<String>,
    /// What to do where the interval does not fit under the server's idle timeout: `retire`, a connection per push that
    /// we close first, or `trim`, push and close windows a little earlier, by a tenth at most [default: retire]
    #[arg(long, value_name = "POLICY")]
    keepalive_policy: Option<String>,
    /// What to do with a push that the server may have taken or not: `at-least-once` sends it again, with the same bytes,
    /// which servers that know them count once; `at-most-once` gives it up and counts it [default: at-least-once]
    #[arg(long, value_name = "PROMISE")]
    delivery: Option<String>,
    /// Speak HTTP/2 to the server, true or false: over TLS where it offers that, else from the first byte; no HTTP/2 server
    /// can say how long it keeps a connection [default: false]
    #[arg(long, value_name = "BOOL")]
    http2: Option<String>,
    /// Samples per second and processor, 1 to 999 [default: 19]
    #[arg(short = 'F', long, value_name = "HZ")]
    frequency: Option<String>,
    /// Share of all processors that profiling may cost, such as 1%: beyond, one sample stands for several ticks, with the weight of
    /// all of them; `off` for no limit [default: off; 1% in the service's configuration]
    #[arg(long, value_name = "SHARE")]
    cpu_max: Option<String>,
    /// Most kernel memory for unwind tables, by which stacks without frame pointers are walked; what does not fit takes the place of what
    /// was used least recently; 0 for frame pointers alone [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    unwind_bytes_max: Option<String>,
    /// Most memory for the agent, its children and its maps in the kernel together, such as 640MiB: the parts are made smaller until they fit;
    /// `config show` lists them; `off` for what they add up to by themselves [default: off; 640MiB in the service's configuration]
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<String>,
    /// Where the embedded server listens; loopback only [default: 127.0.0.1:4040]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the agent answers /metrics, /-/healthy and /-/ready [default: 127.0.0.1:4041]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// File with a token that who asks for the embedded server's page, or the agent's /metrics, /-/status or /-/why, has to show, as
    /// `Authorization: Bearer` or once as ?token=; mode 640 or less [default: the credential `token` of the unit, else none: whoever
    /// reaches the ports may ask]
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// Where state is kept; created if missing. What waits to be pushed is there before it is sent, so that a restart or
    /// a crash loses nothing; so is, for a while, what the server refused [default: STATE_DIRECTORY, which systemd sets;
    /// else none: memory only]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Most disk for what waits to be pushed; when it is full, the oldest goes [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    spool_bytes_max: Option<String>,
    /// Disk that is left free for others; when less is, what waits to be pushed takes no more than it has
    /// [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    spool_free_bytes_min: Option<String>,
    /// Age from which the server takes no profile (a Pyroscope's `reject-older-than`): older ones are not sent, 0 for no
    /// limit [default: 1h]
    #[arg(long, value_name = "DURATION")]
    reject_older_than: Option<String>,
    /// Read inlined functions, files and lines from debug information, true or false [default: true]
    #[arg(long, value_name = "BOOL")]
    inlines: Option<String>,
    /// What is to become of labels: rules as Prometheus has them, a TOML list of tables; better in the file, as [[relabel]]
    /// [default: none]
    #[arg(long, value_name = "RULES")]
    relabel: Option<String>,
    /// Value of the label `hostname` [default: this machine's]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// While this file exists nothing is profiled: who makes it ends the daemon, within seconds, and it does not start
    /// [default: /etc/profiler-daemon/disabled]
    #[arg(long, value_name = "FILE")]
    off_file: Option<String>,
    /// Diagnostics of the eBPF programs themselves, 0 (off) to 5 (trace) [default: 0]
    #[arg(long, value_name = "LEVEL")]
    kernel_log_level: Option<String>,
    /// Configuration file, TOML [default: PROFILER_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments {
        server,
        access,
        sinks,
        interval,
        keepalive_timeout,
        keepalive_policy,
        delivery,
        http2,
        frequency,
        cpu_max,
        unwind_bytes_max,
        memory_max,
        listen,
        admin_listen,
        token_file,
        data_dir,
        spool_bytes_max,
        spool_free_bytes_min,
        reject_older_than,
        inlines,
        relabel,
        hostname,
        off_file,
        kernel_log_level,
        config: file,
    } = arguments;
    let mut flags = access.flags();
    let others = [
        ("server", server),
        ("sinks", sinks),
        ("interval", interval),
        ("keepalive_timeout", keepalive_timeout),
        ("keepalive_policy", keepalive_policy),
        ("delivery", delivery),
        ("http2", http2),
        ("frequency", frequency),
        ("cpu_max", cpu_max),
        ("unwind_bytes_max", unwind_bytes_max),
        ("memory_max", memory_max),
        ("listen", listen),
        ("admin_listen", admin_listen),
        ("token_file", token_file),
        ("data_dir", data_dir),
        ("spool_bytes_max", spool_bytes_max),
        ("spool_free_bytes_min", spool_free_bytes_min),
        ("reject_older_than", reject_older_than),
        ("inlines", inlines),
        ("relabel", relabel),
        ("hostname", hostname),
        ("off_file", off_file),
        ("kernel_log_level", kernel_log_level),
    ];
    flags.extend(others.into_iter().filter_map(|(key, text)| Some((key, text?))));
    let config = super::configuration(file.clone(), &flags)?;
    app::run::run(&config, move || super::configuration(file.clone(), &flags))?;
    Ok(ExitCode::SUCCESS)
}
