//! `serve`: the embedded server alone, for several agents, or as the child that `run` starts.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::app::{Failure, Signals};
use crate::children::{Confinement, Writes, confine, enter};
use crate::meters::Meters;
use crate::{app, server};

/// The embedded Pyroscope-compatible server alone: takes pushes, keeps the last hour in memory, serves the page.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4040")]
    listen: SocketAddr,
    /// Where history is kept; created if missing. This version keeps everything in memory and writes nothing there
    /// [default: none]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Serve on the socket handed over as standard input
    #[arg(long, hide = true)]
    handed: bool,
}

pub(super) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { listen, data_dir, handed } = arguments;
    if !listen.ip().is_loopback() {
        return Err(Failure::Usage(server::ServeError::NotLoopback(listen).to_string()));
    }
    if let Some(folder) = &data_dir {
        std::fs::create_dir_all(folder).map_err(Failure::other(folder.display().to_string()))?;
    }
    let confinement =
        Confinement::server(data_dir.map_or(Writes::Nowhere, |folder| Writes::Beneath(vec![folder])));
    let (listener, lifeline) = if handed {
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
        println!("serving http://{address}/ (page and push; the last hour, in memory)   stop: Ctrl-C");
        (listener, None)
    };
    let signals = Signals::install().map_err(Failure::other("taking over signals"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(Failure::other("starting the server"))?;
    let served = runtime.block_on(async {
        let stop = stop(&signals, lifeline);
        server::serve(
            listener,
            server::Config { listen, ..server::Config::default() },
            &Meters::default(),
            stop,
        )
        .await
    });
    served.map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// Until a signal comes, or the agent is gone.
async fn stop(signals: &Signals, lifeline: Option<std::os::fd::OwnedFd>) {
    let signal = signals.waker().try_clone_to_owned();
    let readable = async |fd: std::io::Result<std::os::fd::OwnedFd>| {
        // A descriptor that cannot be waited for is as good as a signal.
        let stream = fd.map(std::os::unix::net::UnixStream::from).and_then(|stream| {
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream)
        });
        if let Ok(stream) = stream {
            let _ = stream.readable().await;
        }
    };
    match lifeline {
        None => readable(signal).await,
        Some(lifeline) => tokio::select! {
            () = readable(signal) => {}
            () = readable(Ok(lifeline)) => {}
        },
    }
}
