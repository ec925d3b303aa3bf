//! The rules of the house that no compiler knows: who may know whom, who owns which crate, where unsafe lives, and how a
//! file looks.
//!
//! In: a file's path from the top of the workspace, and its text. Out: what is wrong with it, with its line.

use crate::source::{Token, tokens, without_tests, without_texts};

/// Where the rooms are.
const DAEMON: &str = "profiler-daemon/src/";

/// Modules that know every room, and that no room may know.
const KNOW_ALL: [&str; 5] = ["app", "cli", "config", "lib", "main"];
/// Modules that know nobody.
const GROUND_FLOOR: [&str; 6] = ["time", "meters", "procfs", "pprof", "socket", "token"];
/// The corridor and the rooms, each with what it may name beside itself.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &["time"]),
    ("processes", ROOM),
    ("capture", ROOM_WITH_PROCESSES),
    ("attribute", ROOM_WITH_PROCESSES),
    ("symbolize", ROOM),
    ("aggregate", ROOM),
    ("encode", ROOM),
    ("children", ROOM),
    ("deliver", ROOM),
    ("admin", &["meters", "token"]),
    ("govern", ROOM),
    ("doctor", ROOM_WITH_DELIVER),
    ("querier", &["pprof"]),
    ("query", &["pprof", "time", "querier", "deliver"]),
    ("server", &["pprof", "meters", "time", "querier", "token"]),
];
const ROOM: &[&str] = &["model", "time", "meters", "procfs", "pprof", "socket"];
// What the pusher would do with a server is asked of the pusher's own rules.
const ROOM_WITH_DELIVER: &[&str] = &["model", "time", "meters", "procfs", "pprof", "socket", "deliver"];
const ROOM_WITH_PROCESSES: &[&str] = &["model", "time", "meters", "procfs", "pprof", "socket", "processes"];

/// Crates with an owner, and where under the daemon's sources the owner lives.
const OWNERS: &[(&str, &[&str])] = &[
    ("aya", &["capture"]),
    ("aya_log", &["capture"]),
    ("blazesym", &["symbolize/namer"]),
    ("gimli", &["symbolize/namer"]),
    ("xz2", &["symbolize/namer"]),
    ("zstd", &["symbolize/namer"]),
    ("cpp_demangle", &["symbolize/namer"]),
    ("reqwest", &["deliver"]),
    ("axum", &["server", "admin"]),
    ("redb", &["server"]),
    ("clap", &["cli"]),
];

/// What the corridor has no business with: it carries plain values.
const NOT_IN_MODEL: &[&str] = &["fs", "net", "io", "Mutex", "RwLock", "serde", "async", "tokio"];

/// Files with unsafe code, beside the kernel side. Each says why at its top.
pub(crate) const UNSAFE_FILES: &[&str] = &[
    "profiler-common/src/unwind/sign.rs",
    "profiler-daemon/src/capture/sys.rs",
    "profiler-daemon/src/children.rs",
    "profiler-daemon/src/procfs/asked.rs",
    "profiler-daemon/src/socket.rs",
];
/// Where unsafe needs no list: the kernel side, and programs that are profiled.
const UNSAFE_FOLDERS: &[&str] = &["profiler-ebpf/src/", "tests/workloads/"];

/// Lines of a file at most. One idea fits.
const LINES_MAX: usize = 600;

/// Everything that is wrong with the file at `path`.
pub(crate) fn check(path: &str, text: &str) -> Vec<String> {
    let mut faults = looks(path, text);
    if !path.ends_with(".rs") {
        return faults;
    }
    let code = without_texts(text);
    faults.extend(unsafe_code(path, &tokens(&code)));
    if let Some(inside) = path.strip_prefix(DAEMON) {
        let shipped = without_tests(&code);
        let shipped = tokens(&shipped);
        faults.extend(arrows(path, inside, &shipped));
        faults.extend(owners(path, inside, &shipped));
        faults.extend(corridor(path, inside, &shipped));
    }
    faults
}

/// How a file looks: it opens with its reason, is short, finished, and says nothing about the machine it was written on.
fn looks(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let opening: &[&str] = match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "rs" => &["//!"],
        "c" | "cpp" | "h" | "go" | "ts" | "css" => &["//", "/*"],
        _ => &[""],
    };
    if !opening.iter().any(|opening| text.starts_with(opening)) {
        faults.push(format!("{path}:1: a file opens with its reason (`{}`)", opening[0]));
    }
    let lines = text.lines().count();
    if path.ends_with(".rs") && lines > LINES_MAX {
        faults.push(format!("{path}: {lines} lines, more than {LINES_MAX}: give the second idea a file"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for word in UNFINISHED.iter().filter(|word| has_word(line, word)) {
            faults.push(format!("{path}:{number}: nothing unfinished is landed ({word})"));
        }
        for place in MACHINE_PATHS.iter().filter(|place| has_path(line, place)) {
            faults.push(format!("{path}:{number}: a path of the machine it was written on ({place})"));
        }
    }
    faults
}

// Written in two parts, so that this file has none of them.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
];
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "brief")];

fn has_word(line: &str, word: &str) -> bool {
    let whole = |at: usize| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(is_word) && (word.ends_with('!') || !after.starts_with(is_word))
    };
    line.match_indices(word).any(|(at, _)| whole(at))
}

/// Whether `line` has an absolute path that begins with `place`; `/proc/1` and what follows it is none.
fn has_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| !line[..at].ends_with(|c| is_word(c) || "}]*>.".contains(c)))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Unsafe code outside of the files that may have it, and files that may but do not say why.
fn unsafe_code(path: &str, tokens: &[Token<'_>]) -> Vec<String> {
    if UNSAFE_FOLDERS.iter().any(|folder| path.starts_with(folder)) {
        return Vec::new();
    }
    let found = tokens.iter().filter(|token| token.text == "unsafe");
    if UNSAFE_FILES.contains(&path) {
        let says_why = tokens.windows(3).any(|three| {
            matches!([three[0].text, three[1].text, three[2].text], ["expect", "(", "unsafe_code"])
        });
        let fault = match (found.count(), says_why) {
            (0, _) => "is on the list of unsafe files and has no unsafe code",
            (_, false) => "has unsafe code and no `#![expect(unsafe_code, reason = …)]`",
            (_, true) => return Vec::new(),
        };
        return vec![format!("{path}: {fault}")];
    }
    found.map(|token| format!("{path}:{}: unsafe lives in named files only", token.line)).collect()
}

/// Arrows between rooms that the plan does not have.
fn arrows(path: &str, inside: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let from = room(inside);
    if KNOW_ALL.contains(&from) {
        return Vec::new();
    }
    let may_name = match MAY_NAME.iter().find(|(room, _)| *room == from) {
        Some((_, may_name)) => *may_name,
        None if from == "procfs" => &["time"], // what it reads are moments
        None if GROUND_FLOOR.contains(&from) => &[],
        None => {
            return vec![format!("{path}: no room is called {from}: give it a line in tests/tidy/rules.rs")];
        }
    };
    named(tokens, depth(inside))
        .into_iter()
        .filter(|to| to.text != from && is_module(to.text) && !may_name.contains(&to.text))
        .map(|to| format!("{path}:{}: forbidden arrow {from} → {}", to.line, to.text))
        .collect()
}

fn is_module(name: &str) -> bool {
    KNOW_ALL.contains(&name) || GROUND_FLOOR.contains(&name) || MAY_NAME.iter().any(|(room, _)| *room == name)
}

/// The top-level module that a file belongs to.
fn room(inside: &str) -> &str {
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// How many `super` lead from the file's module to the top.
fn depth(inside: &str) -> usize {
    match inside.strip_suffix("/mod.rs") {
        Some(module) => module.split('/').count(),
        None => inside.split('/').count(),
    }
}

/// Every top-level module that is named, by `crate::`, by enough `super::`, or in a group after either.
fn named<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<Token<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut next = at;
        let mut up = 0;
        while tokens.get(next).is_some_and(|token| token.text == "super" || (up == 0 && token.text == "self"))
            && is_path(tokens.get(next + 1))
        {
            up += usize::from(tokens[next].text == "super");
            next += 2;
        }
        let top = if matches!(tokens[at].text, "crate" | "profiler_daemon") && is_path(tokens.get(at + 1)) {
            next = at + 2;
            true
        } else {
            up > 0 && up >= depth
        };
        if top {
            found.extend(heads(&tokens[next..]));
        }
        at = next.max(at + 1);
    }
    found
}

fn is_path(token: Option<&Token<'_>>) -> bool {
    token.is_some_and(|token| token.text == "::")
}

/// The first word of a path, or of each path in a group.
fn heads<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    if tokens.first().is_none_or(|token| token.text != "{") {
        return tokens.first().copied().into_iter().collect();
    }
    let mut found = Vec::new();
    let mut deep = 0usize;
    for pair in tokens.windows(2) {
        match pair[0].text {
            "{" => deep += 1,
            "}" => deep -= 1,
            _ => {}
        }
        if deep == 0 {
            break;
        }
        if deep == 1 && matches!(pair[0].text, "{" | ",") && pair[1].text != "}" {
            found.push(pair[1]);
        }
    }
    found
}

/// Crates that are named by who does not own them.
fn owners(path: &str, inside: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some((name, owners)) = OWNERS.iter().find(|(name, _)| *name == token.text) else { continue };
        let before = at.checked_sub(1).map_or("", |before| tokens[before].text);
        let names_crate = before != "::"
            && before != "."
            && (is_path(tokens.get(at + 1)) || matches!(before, "use" | "crate" | "extern"));
        let owned = owners.iter().any(|owner| {
            inside.strip_prefix(owner).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
        });
        if names_crate && !owned {
            faults.push(format!(
                "{path}:{}: forbidden arrow {} → {name}: only {} may name it",
                token.line,
                room(inside),
                owners.join(" and ")
            ));
        }
    }
    faults
}

/// I/O, locks and serde in the corridor.
fn corridor(path: &str, inside: &str, tokens: &[Token<'_>]) -> Vec<String> {
    if room(inside) != "model" {
        return Vec::new();
    }
    tokens
        .windows(2)
        .filter(|pair| {
            NOT_IN_MODEL.contains(&pair[1].text) && matches!(pair[0].text, "::" | "use" | "{" | ",")
        })
        .map(|pair| {
            format!(
                "{path}:{}: forbidden arrow model → {}: it carries plain values",
                pair[1].line, pair[1].text
            )
        })
        .collect()
}
