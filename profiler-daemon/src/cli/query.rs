//! `query`: asks a Pyroscope, the embedded one or any other.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::access::AccessArguments;
use crate::app::Failure;
use crate::deliver::{Access, Caller};
use crate::pprof::{Message, gzip};
use crate::query::stacks::Stacks;
use crate::query::{Asker, QueryError, Scope, show};
use crate::time::{WallNs, moment_ms};

/// Ask the embedded server, or any Pyroscope, what it has: as a table, text for flame graph tools, or a pprof.
///
/// The server and who we are to it are those of the configuration file and the environment, as for `run`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to ask for
    #[arg(value_enum)]
    what: What,
    /// Which series: a selector such as '{service_name="checkout", hostname=~"web-.*"}', or the name of a service
    /// [default: all]
    selector: Option<String>,
    /// Pyroscope to ask [default: that of the configuration, else the embedded one on this machine]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Type of profiles: in full, as `types` lists them, or its second part, such as alloc_space [default: CPU time]
    #[arg(short, long, value_name = "TYPE")]
    r#type: Option<String>,
    /// Begin: now-1h, a date in UTC such as 2026-01-31T12:00:00Z, or seconds or milliseconds since the epoch
    #[arg(long, value_name = "TIME", default_value = "now-1h")]
    from: String,
    /// End, which is part of it, written like the begin
    #[arg(long, value_name = "TIME", default_value = "now")]
    until: String,
    /// A label: whose values `labels` lists, which `series` shows, or by which `points` groups; may be repeated
    /// [default: none]
    #[arg(short, long, value_name = "NAME")]
    label: Vec<String>,
    /// Time between two points
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    step: std::time::Duration,
    /// Functions that `top` shows
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 30)]
    rows: usize,
    /// Share of all, percent, below which `tree` shows no node
    #[arg(long, value_name = "PERCENT", default_value_t = 0.5)]
    percent_min: f64,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArguments,
    /// Configuration file, TOML [default: PROFILER_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Types of profiles
    Types,
    /// Names of labels, or the values of one
    Labels,
    /// Series, each as the selector that finds it
    Series,
    /// Values over time, in columns with tabs between them
    Points,
    /// The heaviest functions
    Top,
    /// Who calls whom, with shares
    Tree,
    /// A line for each stack, as flame graph tools read it
    Folded,
    /// One pprof of all, compressed
    Pprof,
}

pub(super) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut flags = arguments.access.flags();
    flags.extend(arguments.server.map(|server| ("server", server)));
    let config = super::configuration(arguments.config, &flags)?;
    let access = Access::read(&config.access).map_err(|problems| Failure::Usage(problems.join("\n")))?;
    let server = config.server.unwrap_or_else(|| format!("http://{}", config.listen));
    let now = WallNs::now();
    let moment = |name: &str, text: &str| {
        let wanted = "now-1h, 2026-01-31T12:00:00Z or a number of seconds is wanted";
        moment_ms(text, now).ok_or_else(|| Failure::Usage(format!("--{name} {text}: {wanted}")))
    };
    let scope = Scope {
        selector: selector(arguments.selector.as_deref()),
        start_ms: moment("from", &arguments.from)?,
        end_ms: moment("until", &arguments.until)?,
    };
    if arguments.what == What::Pprof && arguments.output.is_none() && io::stdout().is_terminal() {
        return Err(Failure::Usage("a pprof is no text: name a file with --output".to_owned()));
    }
    let failed = |error: QueryError| Failure::Other { what: "query".to_owned(), error: error.to_string() };
    let caller = Caller::new(&server, access).map_err(|error| Failure::Usage(error.to_string()))?;
    let asker = Asker::new(caller);

    let kind = |asker: &Asker| asker.type_of(arguments.r#type.as_deref(), &scope).map_err(failed);
    let lines =
        |lines: Vec<String>| lines.into_iter().map(|line| line + "\n").collect::<String>().into_bytes();
    let (text, about) = match arguments.what {
        What::Types => (lines(asker.types(&scope).map_err(failed)?), None),
        What::Labels => {
            let names = match arguments.label.as_slice() {
                [] => asker.label_names(&scope),
                [name] => asker.label_values(name, &scope),
                _ => return Err(Failure::Usage("`labels` lists the values of one label".to_owned())),
            };
            (lines(names.map_err(failed)?), None)
        }
        What::Series => {
            let series = asker.series(&arguments.label, &scope).map_err(failed)?;
            (lines(series.iter().map(show::selector).collect()), None)
        }
        What::Points => {
            let (kind, step_s) = (kind(&asker)?, arguments.step.as_secs_f64());
            let series = asker.points(kind.clone(), &arguments.label, step_s, &scope).map_err(failed)?;
            let any = series.iter().any(|(_, points)| !points.is_empty());
            (if any { show::points(&arguments.label, &series).into_bytes() } else { Vec::new() }, Some(kind))
        }
        What::Top | What::Tree | What::Folded | What::Pprof => {
            let kind = kind(&asker)?;
            let profile = asker.profile(kind.clone(), &scope).map_err(failed)?;
            let unit = kind.split(':').nth(2).unwrap_or_default();
            let stacks = Stacks::of(&profile);
            let text = match arguments.what {
                _ if stacks.total() == 0 => Vec::new(),
                What::Pprof => gzip(&profile.encode_to_vec()),
                What::Folded => show::folded(&stacks).into_bytes(),
                What::Tree => show::tree(&stacks, unit, arguments.percent_min).into_bytes(),
                _ => show::top(&stacks, unit, arguments.rows).into_bytes(),
            };
            (text, Some(kind))
        }
    };
    if text.is_empty() {
        let kind = about.map(|kind| format!("no profile of type {kind}, ")).unwrap_or_default();
        return Err(Failure::NothingFound(format!(
            "{kind}series {} from {} until {} at {}; `query types` and `query series` list what there is",
            scope.selector,
            arguments.from,
            arguments.until,
            crate::deliver::shown(&server)
        )));
    }
    match arguments.output {
        Some(path) => {
            let written = File::create(&path).and_then(|mut file| file.write_all(&text));
            written.map_err(Failure::other(format!("writing {}", path.display())))?;
        }
        // Who reads no further has what they wanted.
        None => match io::stdout().write_all(&text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Failure::other("writing to standard output")(error));
            }
            _ => {}
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// What was given, as a selector: the name of a service is one too.
fn selector(given: Option<&str>) -> String {
    match given {
        None => "{}".to_owned(),
        Some(text) if text.contains('{') => text.to_owned(),
        Some(service) => show::selector(&vec![("service_name".to_owned(), service.to_owned())]),
    }
}
