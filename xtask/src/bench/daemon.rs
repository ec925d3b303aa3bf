//! A daemon that is measured: started, asked over HTTP, and stopped.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The daemon, which ends with this value.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    begun: Instant,
    page: SocketAddr,
    admin: SocketAddr,
    /// What it says; a file without a name.
    said: File,
}

/// How it stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped {
    /// Seconds from the signal to its end.
    pub took_s: f64,
    /// Samples that it captured.
    pub captured: u64,
    /// Samples that it lost, but for ticks that the kernel or a hypervisor skipped.
    pub lost: u64,
}

impl Daemon {
    /// `profiler-daemon run` at a rate.
    pub(super) fn start(binary: &Path, hz: u32) -> Result<Self> {
        let [page, admin] = free_ports()?;
        let mut run = Command::new(binary);
        run.args(["run", "-F", &hz.to_string()]);
        run.args(["--listen", &page.to_string(), "--admin-listen", &admin.to_string()]);
        let said = tempfile::tempfile().context("a temporary file")?;
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone()?);
        let begun = Instant::now();
        let child = run.spawn().context("the daemon cannot be started")?;
        Ok(Self { child, begun, page, admin, said })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Seconds from its start until its page is there.
    pub(super) fn wait_for_page(&mut self) -> Result<f64> {
        self.wait_for(self.page, "/", "200 OK")
    }

    /// Seconds from its start until something was pushed.
    pub(super) fn wait_for_data(&mut self) -> Result<f64> {
        self.wait_for(self.admin, "/metrics", "profiler_push_attempts_total{result=\"ok\"")
    }

    /// Seconds from its start until the answer at `path` holds `words`.
    fn wait_for(&mut self, address: SocketAddr, path: &str, words: &str) -> Result<f64> {
        loop {
            if get(address, path).is_ok_and(|answer| answer.contains(words)) {
                return Ok(self.begun.elapsed().as_secs_f64());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended ({status})");
            }
            if self.begun.elapsed() > Duration::from_secs(30) {
                bail!("no `{words}` at http://{address}{path} after 30 s");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The sum of a metric over its labels that contain `labels`.
    pub(super) fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        Ok(sum(&get(self.admin, "/metrics")?, name, labels))
    }
}

impl Daemon {
    /// Stops it, as a service manager does.
    pub(super) fn stop(mut self) -> Result<Stopped> {
        let begun = Instant::now();
        self.terminate();
        let status = self.child.wait()?;
        let took_s = begun.elapsed().as_secs_f64();
        let mut said = String::new();
        self.said.rewind()?;
        self.said.read_to_string(&mut said)?;
        let (captured, lost) = books(&said)
            .with_context(|| format!("the daemon ended ({status}) without its books:\n{said}"))?;
        Ok(Stopped { took_s, captured, lost })
    }

    fn terminate(&mut self) {
        // While it is not waited for, the number is its own.
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = self.child.id().to_string();
            let _ = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.terminate();
        let _ = self.child.wait();
    }
}

/// Of `stopped: captured 9 = delivered 6 + lost 3 (2 tick skipped, 1 stopped)`: captured, and lost but for skipped ticks.
fn books(said: &str) -> Option<(u64, u64)> {
    let line = said.lines().rev().find(|line| line.contains("stopped: captured "))?;
    let number = |words: &str| line.split_once(words)?.1.split([' ', ')']).next()?.parse::<u64>().ok();
    let reasons = line.split(['(', ',', ')']).filter_map(|part| part.trim().strip_suffix(" tick skipped"));
    let skipped: u64 = reasons.filter_map(|number| number.parse::<u64>().ok()).sum();
    Some((number("captured ")?, number("lost ")?.checked_sub(skipped)?))
}

/// The sum of a metric over its labels that contain `labels`, in an answer of `/metrics`.
fn sum(metrics: &str, name: &str, labels: &str) -> f64 {
    let of_it = metrics.lines().filter_map(|line| {
        let (found, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let is_it = (found.is_empty() || found.starts_with('{')) && found.contains(labels);
        is_it.then(|| value.parse::<f64>().ok())?
    });
    of_it.sum()
}

/// One answer, head and body.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Two ports that nobody listens on.
fn free_ports() -> Result<[SocketAddr; 2]> {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([listeners[0].local_addr()?, listeners[1].local_addr()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, labels: &str, expected: f64) {
        let metrics = "# HELP a b\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 7\nb 4.5\n";
        assert!((sum(metrics, name, labels) - expected).abs() < 1e-9);
    }

    #[track_caller]
    fn check_books(line: &str, expected: Option<(u64, u64)>) {
        assert_eq!(books(&format!("INFO begun\n{line}\n")), expected);
    }

    #[test]
    fn skipped_ticks_are_nobodys_loss() {
        check_books("stopped: captured 9 = delivered 6 + lost 3 (2 tick skipped, 1 stopped)", Some((9, 1)));
        check_books("stopped: captured 9 + recovered 1 = delivered 10 + lost 0", Some((9, 0)));
        check_books("panicked", None);
    }

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        check("a_total", "", 5.0);
        check("a_total", "x=\"2\"", 3.0);
        check("b", "", 4.5);
        check("c", "", 0.0);
    }
}
