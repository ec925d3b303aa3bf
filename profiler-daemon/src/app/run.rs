//! `run`: the resident. Samples everything, pushes every interval, until told to stop.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use super::books::{Books, Room};
use super::build::Patience;
use super::builder::Builder;
use super::intake::Intake;
use super::quality::QualityMeters;
use super::reader::{Heartbeat, Plan, Reader};
use super::reload::{Live, Reload, Secrets};
use super::service::{Progress, Service, Stage};
use super::signals::Hangup;
use super::steering::{Ceiling, Steering};
use super::usage::Roll;
use super::why::Why;
use super::{Budget, Failure, Part, Signals, build, notify, ports, rights, service, usage};
use crate::admin::{self, Admin};
use crate::aggregate::{Grain, aggregate};
use crate::capture::{self, Kernel};
use crate::children::{self, Keeper};
use crate::config::Config;
use crate::deliver::{self, Uploader};
use crate::encode::{self, Limits};
use crate::meters::Meters;
use crate::model::{Payload, Profile, SampleKind, TraceBatch, Weight};
use crate::symbolize::Symbolizer;
use crate::token::{Gate, Token};

/// Length of the first window: a newcomer sees data at once.
const FIRST_WINDOW: Duration = Duration::from_secs(1);

/// How long the last pushes may take after the stop was asked for.
const GRACE: Duration = Duration::from_secs(8);

/// How long the embedded server may take to stop after the last push.
const SERVER_GRACE: Duration = Duration::from_secs(3);

/// Runs until SIGINT or SIGTERM. At a SIGHUP, `again` gives the configuration as it is then.
pub fn run(
    config: &Config,
    again: impl Fn() -> Result<Config, Failure> + Send + 'static,
) -> Result<(), Failure> {
    let signals = Signals::install().map_err(Failure::other("taking over signals"))?;
    let hangup = Hangup::install().map_err(Failure::other("taking over signals"))?;
    if service::is_switched_off(&config.off_file) {
        notify::ready();
        return Ok(());
    }
    raise_open_files();
    let Secrets { access, token, relabel } = Secrets::read(config).map_err(Failure::Usage)?;
    let gate = Gate::new(token);
    let budget = super::budget(config).map_err(Failure::Usage)?;
    let meters = Meters::default();
    budget.meter(&meters);
    let admin_listener = ports::listen(config.admin_listen, "--admin-listen")?;
    let embedded = match &config.server {
        None => Some(ports::listen(config.listen, "--listen")?),
        Some(_) => None,
    };
    let capture_config = capture::Config {
        frequency_hz: config.frequency_hz,
        log_level: config.kernel_log_level,
        unwind_bytes_max: budget.bytes(Part::UnwindTables),
        ..capture::Config::default()
    };
    let kind = SampleKind::CpuTime { period_ns: capture_config.period_ns() };
    // Before any thread runs that opens a file: see `capture::load`.
    let mut kernel = Kernel::open(capture_config, signals.waker(), &meters)?;
    rights::say_what_is_missing();

    let books = Books::new(&meters);
    let roll = Roll::default();
    let ceiling = Ceiling::new(config.cpu_max.map(|share| share.of_machine(kernel.processors())));
    let steering = Steering::new(ceiling.clone(), roll.clone(), &meters);
    let heartbeat = Heartbeat::default();
    let (tracker, attributor) =
        build::tracking(config.hostname.clone(), false, relabel.clone(), &budget, &meters)?;
    let address = match &embedded {
        None => None,
        Some(listener) => Some(listener.local_addr().map_err(Failure::other("asking for the port"))?),
    };
    let server = embedded
        .map(|listener| start_server(listener, config.data_dir.as_deref(), &budget, &gate, &roll, &meters))
        .transpose()?
        .map(Arc::new);
    let url = match (&config.server, address) {
        (Some(url), _) => url.clone(),
        (None, Some(address)) => format!("http://{address}"),
        (None, None) => unreachable!("without a server's address the embedded one was started"),
    };
    let upload = deliver::Config {
        server: url.clone(),
        access: access.clone(),
        sinks: config.sinks.clone(),
        interval: config.interval,
        keepalive_timeout: config.keepalive_timeout,
        when_short: config.keepalive_policy,
        ambiguous: config.delivery,
        http2: config.http2,
        hint_file: config.data_dir.as_ref().map(|folder| folder.join("keepalive.json")),
        grace: GRACE,
        spool: config.data_dir.as_ref().map(|folder| deliver::spool::Config {
            folder: folder.join("spool"),
            bytes_max: config.spool_bytes_max,
            free_bytes_min: config.spool_free_bytes_min,
        }),
        quarantine: config.data_dir.as_ref().map(|folder| folder.join("quarantine")),
        reject_older_than: config.reject_older_than,
        waiting_bytes_max: budget.waiting_bytes(config),
        ..deliver::Config::default()
    };
    let uploader = deliver::start(&upload, &meters, books.lost_counters())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let cadence = uploader.cadence();
    let mut symbolizer = build::symbolizer(config.inlines, Patience::Window, &budget, &roll, &meters);
    symbolizer.name_kernel_by(build::kernel_namer(&mut kernel));
    let url = deliver::shown(&url);
    let pushes = format!("pushing every {} to {url}", humantime::format_duration(config.interval));
    let standing = uploader.standing();
    let status = move || format!("{pushes}\n{standing}\n");
    let stage = Stage::default();
    let progress = Progress::new(heartbeat.clone(), config.interval, stage.clone(), uploader.pulses());
    let quality = QualityMeters::new(&meters);
    let (hostname, qualities) = (config.hostname.clone(), Some(quality.qualities()));
    let why = Why { hostname, relabel: relabel.clone(), qualities };
    let admin_address =
        start_admin(admin_listener, &meters, progress.clone(), gate.clone(), &roll, status, why)?;
    say_what_runs(config, &kernel, &url, address, admin_address, gate.token());
    notify::ready();
    let stopper = signals.stopper().map_err(Failure::other("watching over the work"))?;
    let live =
        Live { access, relabel, gate, ceiling, processors: kernel.processors(), server: server.clone() };
    let reload = Reload::new(config.clone(), live, Box::new(again), &meters);
    let off_file = config.off_file.clone();
    Service { hangup, reload, progress, books: books.clone(), off_file, stopper }.start()?;

    let builder =
        Builder::start(build::unwinder(&symbolizer, config.data_dir.as_deref(), &budget, &roll, &meters))?;
    let (q1, batches) = sync_channel(super::BATCHES_WAITING_MAX);
    let workshop = {
        let books = books.clone();
        std::thread::Builder::new()
            .name("workshop".to_owned())
            .spawn(move || {
                work(&batches, symbolizer, &uploader, &books, quality, &stage);
                uploader.finish()
            })
            .map_err(Failure::other("starting a thread"))?
    };
    let intake = Intake::new(tracker, attributor, None, &meters);
    let reader = Reader::new(kernel, intake, kind, books.clone(), heartbeat, None, &meters);
    let plan = Plan { first: FIRST_WINDOW.min(config.interval), cadence, total: None };
    let read = reader.with(builder)?.steered(steering).run(&plan, &q1);
    drop(q1);
    notify::stopping(GRACE + SERVER_GRACE);
    let outcome = workshop.join().map_err(|_| Failure::Other {
        what: "naming and encoding".to_owned(),
        error: "the workshop ended with a bug; its message is above".to_owned(),
    })?;
    if let Some(server) = server {
        server.stop(SERVER_GRACE);
    }
    read?;
    let lost = books.lost_total();
    let some = |what: &str, weight: Weight| match weight.0 {
        0 => String::new(),
        weight => format!("{what} {weight}"),
    };
    let reasons: Vec<String> = lost.iter().map(|(reason, weight)| format!("{weight} {reason}")).collect();
    tracing::info!(
        "stopped: captured {}{} = delivered {}{}{} + lost {}{}",
        books.captured_total(),
        some(" + recovered", outcome.recovered),
        outcome.delivered.0,
        some(" + kept", outcome.kept),
        some(" + elsewhere", Weight(books.elsewhere_total())),
        lost.iter().map(|(_, weight)| weight).sum::<u64>(),
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) },
    );
    Ok(())
}

/// One file is held open per module of the machine, and one event or two per processor.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If it may not be raised, the tracker holds fewer files, and counts that.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The embedded server, a child of the same binary; the socket stays ours, so that nobody is refused while it is
/// started again. Whoever pushes to it or looks at its page is asked for what `gate` asks for.
fn start_server(
    listener: TcpListener,
    data_dir: Option<&Path>,
    budget: &Budget,
    gate: &Gate,
    roll: &Roll,
    meters: &Meters,
) -> Result<Keeper, Failure> {
    let mut arguments: Vec<OsString> = ["serve", "--handed", "--data-bytes-max"].map(Into::into).into();
    arguments.push(budget.bytes(Part::Server).to_string().into());
    if let Some(folder) = data_dir {
        let store = folder.join(super::STORE);
        children::hand_over(&store).map_err(Failure::other(store.display().to_string()))?;
        arguments.extend(["--data-dir".into(), folder.into()]);
    }
    let roll = roll.clone();
    let spawn = move || {
        let spawned = children::spawn_server(Path::new(children::SELF), &arguments, &listener)?;
        roll.add(spawned.child.id());
        Ok(spawned)
    };
    let token = gate.token().map_or_else(String::new, |token| token.text().to_owned());
    Keeper::start("server", token, spawn, meters).map_err(Failure::other("starting the embedded server"))
}

fn start_admin(
    listener: TcpListener,
    meters: &Meters,
    progress: Progress,
    gate: Gate,
    roll: &Roll,
    status: impl Fn() -> String + Send + Sync + 'static,
    why: Why,
) -> Result<SocketAddr, Failure> {
    let address = listener.local_addr().map_err(Failure::other("asking for the port"))?;
    let usage = usage::Usage::new(roll.clone(), meters);
    let admin = Admin {
        meters: meters.clone(),
        refresh: Arc::new(move || usage.refresh()),
        healthy: Arc::new(move || progress.check()),
        gate,
        status: Arc::new(status),
        why: Arc::new(move |pid| why.answer(pid)),
    };
    admin::spawn(listener, admin).map_err(Failure::other("serving the admin port"))?;
    Ok(address)
}

/// The first lines: what is profiled, at what rate, pushed where, and the page's address.
fn say_what_runs(
    config: &Config,
    kernel: &Kernel,
    url: &str,
    embedded: Option<SocketAddr>,
    admin: SocketAddr,
    token: Option<Token>,
) {
    let processors = match kernel.processors() {
        1 => "1 processor".to_owned(),
        count => format!("{count} processors"),
    };
    println!("profiling every process on {processors} at {} Hz", config.frequency_hz);
    let whose = match (embedded, &config.data_dir) {
        (None, _) => "",
        (Some(_), None) => " (embedded, the last hour in memory)",
        (Some(_), Some(_)) => " (embedded, its history on disk)",
    };
    println!("pushing every {} to {url}{whose}", humantime::format_duration(config.interval));
    match &config.data_dir {
        Some(folder) => println!("what waits to be pushed is kept in {}", folder.display()),
        None => {
            println!("what waits to be pushed is kept in memory only; --data-dir keeps it over a restart")
        }
    }
    // The token is shown to whoever started this, and to no log.
    let token = token.filter(|_| embedded.is_some() && std::io::stdout().is_terminal());
    let query = token.map(|token| format!("?{}", token.query())).unwrap_or_default();
    println!("page: {url}/{query}   metrics: http://{admin}/metrics   stop: Ctrl-C");
}

/// The workshop: names, merges and encodes each window.
fn work(
    batches: &Receiver<TraceBatch>,
    mut symbolizer: Symbolizer,
    uploader: &Uploader,
    books: &Books,
    mut quality: QualityMeters,
    stage: &Stage,
) {
    for batch in batches {
        stage.begin("naming");
        let named = symbolizer.name(batch);
        stage.begin("merging and encoding");
        let profiles = aggregate(&named, Grain::Stack);
        quality.count(&profiles);
        let weight: Weight = profiles.iter().map(Profile::weight).sum();
        let payloads: Vec<Payload> =
            profiles.iter().flat_map(|profile| encode::pprof::payloads(profile, Limits::default())).collect();
        books.pass(Room::Workshop, None, weight);
        stage.begin("handing over what is to be pushed");
        uploader.send(payloads);
        stage.begin("waiting for a window");
    }
}
