//! `serve`: the embedded server alone, for several agents, or as the child that `run` starts.

use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;

use crate::app::{Failure, Signals};
use crate::children::{Confinement, SERVER_BYTES_MAX, Writes, confine, enter, hand_over};
use crate::meters::Meters;
use crate::server::{Door, DoorError};
use crate::token::{CHARACTERS_MAX, Gate, Token};
use crate::{app, server};

/// The embedded Pyroscope-compatible server alone: takes pushes, keeps history, serves the page.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to listen; on loopback only, unless there is a token
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4040")]
    listen: SocketAddr,
    /// File with a token that whoever pushes or asks has to show: as `Authorization: Bearer`, or, in a browser, once in the
    /// page's address. Tenants are not kept apart: who has it sees all [default: none]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Speak TLS, with this certificate and those that vouch for it, PEM [default: none]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Where history is kept, in a folder `store`; created if missing. Without it the last hour is kept in memory
    /// [default: none]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How long history is kept on disk, such as 12h or 30d
    #[arg(long, value_name = "TIME", default_value = "7d", requires = "data_dir", value_parser = humantime::parse_duration)]
    keep: Duration,
    /// Bytes of history on disk; when there are more, the oldest goes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, requires = "data_dir")]
    store_bytes_max: u64,
    /// Serve on the socket handed over as standard input, and ask for the token that is told on standard output
    #[arg(long, hide = true)]
    handed: bool,
    /// Private memory that it may have, bytes.
    #[arg(long, hide = true, default_value_t = SERVER_BYTES_MAX)]
    data_bytes_max: u64,
}

pub(super) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments {
        listen,
        token_file,
        tls_cert,
        tls_key,
        data_dir,
        keep,
        store_bytes_max,
        handed,
        data_bytes_max,
    } = arguments;
    if !listen.ip().is_loopback() && token_file.is_none() {
        return Err(Failure::Usage(server::ServeError::NotLoopback(listen).to_string()));
    }
    // Read before we are confined, as who we are now.
    let door = door(token_file.as_deref(), tls_cert.as_deref().zip(tls_key.as_deref()));
    let door = door.map_err(|error| Failure::Usage(error.to_string()))?;
    let mut config = server::Config {
        listen,
        door: door.clone(),
        agent: handed,
        keep_on_disk: keep,
        disk_bytes_max: store_bytes_max,
        ..server::Config::within(data_bytes_max)
    };
    let mut writes = Writes::Nowhere;
    if let Some(store) = data_dir.as_ref().map(|folder| folder.join(app::STORE)) {
        // Who we become may not be allowed to walk there: from now on the folder is where we are.
        hand_over(&store)
            .and_then(|()| std::env::set_current_dir(&store))
            .map_err(Failure::other(store.display().to_string()))?;
        config.store = Some(PathBuf::from("."));
        writes = Writes::Beneath(vec![PathBuf::from(".")]);
    }
    let kept = match &data_dir {
        Some(folder) => format!("history in {}", folder.join(app::STORE).display()),
        None => "the last hour, in memory".to_owned(),
    };
    let confinement = Confinement { data_bytes_max, ..Confinement::server(writes) };
    let gate = Gate::default();
    let (listener, lifeline) = if handed {
        config.door = Door::default().with_gate(gate.clone());
        let (handed, report) = enter(&confinement).map_err(|error| Failure::Other {
            what: "confining the embedded server".to_owned(),
            error: error.to_string(),
        })?;
        tracing::debug!("server: {report}");
        (TcpListener::from(handed.work), Some(handed.lifeline))
    } else {
        let listener = app::listen(listen, "--listen")?;
        let report = confine(&confinement).map_err(|error| Failure::Other {
            what: "confining the server".to_owned(),
            error: error.to_string(),
        })?;
        tracing::debug!("server: {report}");
        let address = listener.local_addr().map_err(Failure::other("asking for the port"))?;
        // The token is shown to whoever started this, and to no log.
        let door = if io::stdout().is_terminal() { door } else { door.without_token() };
        println!("serving {} (page and push; {kept})   stop: Ctrl-C", door.address(address));
        (listener, None)
    };
    let signals = Signals::install().map_err(Failure::other("taking over signals"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(Failure::other("starting the server"))?;
    let served = runtime.block_on(async {
        let Some(lifeline) = lifeline else {
            return server::serve(listener, config, &Meters::default(), signal(&signals)).await;
        };
        let Ok(mut agent) = stream(lifeline).map(BufReader::new) else { return Ok(()) };
        // Nobody is let in before we know who may be.
        let Some(token) = told(&mut agent).await else { return Ok(()) };
        gate.replace(token);
        let stop = async {
            let listen = async {
                while let Some(token) = told(&mut agent).await {
                    gate.replace(token);
                }
            };
            tokio::select! {
                () = signal(&signals) => {}
                () = listen => {}
            }
        };
        server::serve(listener, config, &Meters::default(), stop).await
    });
    served.map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

fn door(token: Option<&Path>, tls: Option<(&Path, &Path)>) -> Result<Door, DoorError> {
    let mut door = Door::default();
    if let Some(path) = token {
        door = door.with_token(path)?;
    }
    match tls {
        Some((certificate, key)) => door.with_certificate(certificate, key),
        None => Ok(door),
    }
}

/// Until a signal comes.
async fn signal(signals: &Signals) {
    let waker = signals.waker().try_clone_to_owned();
    // A descriptor that cannot be waited for is as good as a signal.
    if let Ok(stream) = waker.and_then(stream) {
        let _ = stream.readable().await;
    }
}

/// The token that the agent wants to be asked for from now on, if any: it says so in a line, an empty one for none. `None` when the
/// agent is gone, or says what it never would.
async fn told(agent: &mut BufReader<UnixStream>) -> Option<Option<Token>> {
    let mut line = String::new();
    agent.take(CHARACTERS_MAX as u64 + 1).read_line(&mut line).await.ok()?;
    match line.strip_suffix('\n')? {
        "" => Some(None),
        text => Token::new(text).ok().map(Some),
    }
}

fn stream(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
