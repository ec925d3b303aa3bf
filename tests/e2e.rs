//! Tier 6: programs of known call tree and CPU shares, profiled on this kernel with the rest of the system around them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use object::{Object, ObjectSymbol};
use profiler_tests::harness::daemon::{Recording, record_command};
use profiler_tests::harness::gate;
use profiler_tests::harness::profile::{Profile, Stack};
use profiler_tests::harness::shares::{Limits, Report};
use profiler_tests::harness::workloads::{self, Running, Spent, stolen_ns};
use profiler_tests::need;

/// CPU seconds per program: 4 000 samples at 99 Hz, and some. `TEST_E2E_CPU_SECONDS` is for who looks for a fault.
const CPU_SECONDS: f64 = 41.0;
const FREQUENCY_HZ: u32 = 99;
const LIMITS: Limits =
    Limits { samples_min: 4000, share_points_max: 3.0, weight_percent_max: 5.0, whole_percent_min: 98.0 };

/// How far the weight of all programs together may be from the CPU time they used. Where a program shares its processor
/// 4 000 samples are a sample in the statistical sense too: one standard deviation is 1.6 %, of all of them 0.6 %.
const WEIGHT_PERCENT_MAX: f64 = 2.0;

/// One test at a time has the machine.
static MACHINE: Mutex<()> = Mutex::new(());

#[test]
fn names_shares_and_weight_are_those_that_the_programs_tell() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = std::env::var("TEST_E2E_CPU_SECONDS").ok().and_then(|seconds| seconds.parse::<f64>().ok());
    let cpu_seconds = asked.unwrap_or(CPU_SECONDS);
    let limits = Limits { samples_min: if asked.is_some() { 1 } else { LIMITS.samples_min }, ..LIMITS };
    let seconds = cpu_seconds.to_string();
    let run = |program: PathBuf| {
        let mut command = Command::new(program);
        command.arg(&seconds);
        command
    };
    let namespace = tempfile::tempdir().expect("a temporary folder");
    let chroot = tempfile::tempdir().expect("a temporary folder");
    let (_, in_chroot) = workloads::shop_library();
    // Two at a time on two processors.
    let mut rounds = vec![
        vec![("wl-c", run(workloads::shop_c("wl-c"))), ("wl-cpp", run(workloads::shop_cpp()))],
        vec![
            (
                "wl-mount",
                workloads::in_mount_namespace(&workloads::shop_c("wl-mount"), namespace.path(), cpu_seconds),
            ),
            ("wl-chroot", workloads::in_chroot(&in_chroot, chroot.path(), cpu_seconds)),
        ],
        vec![("wl-rust", run(workloads::shop_rust()))],
        vec![("wl-threads", run(workloads::shop_threads()))],
    ];
    match gate::go() {
        Ok(()) => rounds[2].push(("wl-go", run(workloads::shop_go()))),
        Err(missing) => gate::skip("the program in Go", &missing),
    }

    let stolen_before_ns = stolen_ns();
    let recording = Recording::start(FREQUENCY_HZ);
    let mut spent: Vec<(&str, Spent)> = Vec::new();
    for round in rounds {
        let running: Vec<_> =
            round.into_iter().map(|(comm, mut command)| (comm, Running::start(&mut command))).collect();
        spent.extend(running.into_iter().map(|(comm, running)| (comm, running.finish())));
    }
    let recorded = recording.stop();
    let stolen_ns = stolen_ns() - stolen_before_ns;

    println!("{}", recorded.ended.said);
    assert_eq!(recorded.pprof.samples(), recorded.folded.samples(), "both files hold the same samples");
    let period_ns = recorded.pprof.period_ns;
    let mut faults = Vec::new();
    for (format, profile) in [("pprof", &recorded.pprof), ("folded", &recorded.folded)] {
        for (comm, spent) in &spent {
            let report = Report::new(profile, period_ns, comm, spent);
            println!("{format:<6} {report}");
            faults.extend(report.faults(limits).into_iter().map(|fault| format!("{format}: {fault}")));
        }
    }
    let weight_ns: u64 = spent.iter().map(|(comm, _)| recorded.pprof.of(comm).samples() * period_ns).sum();
    let cpu_ns: u64 = spent.iter().map(|(_, spent)| spent.cpu_ns).sum();
    let off = (weight_ns as f64 / cpu_ns as f64 - 1.0) * 100.0;
    println!(
        "all programs used {:.1} CPU s; their samples weigh {off:+.2} % of that too much; {:.1} s were stolen",
        cpu_ns as f64 / 1e9,
        stolen_ns as f64 / 1e9
    );
    let stolen_percent = stolen_ns as f64 * 100.0 / cpu_ns as f64;
    let is_right = (-WEIGHT_PERCENT_MAX..=WEIGHT_PERCENT_MAX + stolen_percent).contains(&off);
    if !is_right && asked.is_none() {
        faults.push(format!("the samples of all programs weigh {off:+.2} % of their CPU time too much"));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// CPU seconds of each program without frame pointers.
const FRAMELESS_CPU_SECONDS: f64 = 12.0;
/// Whole stacks of native code without frame pointers, percent, once the tables of its files are there.
const FRAMELESS_WHOLE_PERCENT_MIN: f64 = 99.5;

#[test]
fn stacks_without_frame_pointers_are_whole() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = Limits {
        samples_min: 1000,
        share_points_max: 4.0,
        weight_percent_max: 10.0,
        whole_percent_min: FRAMELESS_WHOLE_PERCENT_MIN,
    };
    let programs = [
        ("wl-bare-c", workloads::frameless_c()),
        ("wl-bare-cpp", workloads::frameless_cpp()),
        ("wl-bare-rust", workloads::frameless_rust()),
    ];
    let recording = Recording::start(FREQUENCY_HZ);
    programs.iter().for_each(|(_, program)| make_known(program, "1"));
    let spent = run_each(&programs, FRAMELESS_CPU_SECONDS);
    run_deep();
    let recorded = recording.stop();

    println!("{}", recorded.ended.said);
    let mut faults = Vec::new();
    for (comm, spent) in &spent {
        let report = Report::new(&recorded.pprof, recorded.pprof.period_ns, comm, spent);
        println!("{report}");
        faults.extend(report.faults(limits));
    }
    faults.extend(deep_faults(&recorded.folded));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// CPU seconds of each program without tables, and how often a second it is looked at.
const TABLELESS_CPU_SECONDS: f64 = 5.0;
const TABLELESS_FREQUENCY_HZ: u32 = 499;
/// Measured: 99.76 to 100. A function that is not understood would have a tenth.
const TABLELESS_WHOLE_PERCENT_MIN: f64 = 99.3;

/// musl's C library is built without tables, and so may a program be: rules are made of the code.
#[test]
fn stacks_without_unwind_tables_are_whole() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = Limits {
        samples_min: 1000,
        share_points_max: 4.0,
        weight_percent_max: 10.0,
        whole_percent_min: TABLELESS_WHOLE_PERCENT_MIN,
    };
    let mut programs = vec![("wl-tableless", workloads::tableless())];
    match gate::musl() {
        Ok(()) => {
            programs.extend([
                ("wl-one-musl", workloads::musl_static()),
                ("wl-so-musl", workloads::musl_shared()),
                (STRIPPED, workloads::musl_stripped()),
                (SIGNALS, workloads::musl_signals()),
            ]);
        }
        Err(missing) => gate::skip("the programs in C with musl", &missing),
    }
    match gate::musl_rust() {
        Ok(()) => programs.push(("wl-rs-musl", workloads::musl_rust())),
        Err(missing) => gate::skip("the program in Rust with musl", &missing),
    }
    let recording = Recording::start(TABLELESS_FREQUENCY_HZ);
    programs.iter().for_each(|(_, program)| make_known(program, "0.6"));
    let spent = run_each(&programs, TABLELESS_CPU_SECONDS);
    let mut recorded = recording.stop();

    println!("{}", recorded.ended.said);
    let mut faults = Vec::new();
    for (comm, spent) in &spent {
        if *comm == STRIPPED {
            let names = names_of(&workloads::musl_static());
            recorded.pprof.name_addresses(STRIPPED, |address| {
                let (_, (end, name)) = names.range(..=address).next_back()?;
                (address < *end).then(|| name.clone())
            });
        }
        let report = Report::new(&recorded.pprof, recorded.pprof.period_ns, comm, spent);
        println!("{report}");
        faults.extend(report.faults(limits));
        if *comm == SIGNALS {
            faults.extend(interrupted_faults(&recorded.pprof));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The program without names, and the one whose handlers interrupt it.
const STRIPPED: &str = "wl-mu-stripped";
const SIGNALS: &str = "wl-mu-signals";

/// The functions of `program`, by address, with where they end.
fn names_of(program: &Path) -> BTreeMap<u64, (u64, String)> {
    let bytes = std::fs::read(program).expect("it was built");
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let functions = file.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text);
    let named = functions.filter_map(|symbol| {
        let name = symbol.name().ok()?.to_owned();
        Some((symbol.address(), (symbol.address() + symbol.size(), name)))
    });
    named.collect()
}

/// What is wrong with the stacks of handlers: below each are its way back and what it interrupted, up to main().
fn interrupted_faults(profile: &Profile) -> Vec<String> {
    let (mut whole, mut all, mut others) = (0, 0, BTreeMap::new());
    for stack in &profile.of(SIGNALS).stacks {
        let user: Vec<_> = stack.user().map(|frame| frame.name.as_str()).collect();
        let is_handler = |name: &str| name.starts_with("on_");
        if !user.iter().any(|name| is_handler(name)) {
            continue;
        }
        // One may interrupt the other.
        let mut from = user.iter();
        let begins = ["main", "interrupted"].iter().all(|name| from.any(|found| found == name));
        let pairs = || user.windows(2).filter(|pair| is_handler(pair[1]));
        let leads =
            begins && pairs().all(|pair| pair[0] == "__restore_rt") && from.any(|name| is_handler(name));
        all += stack.samples;
        if leads {
            whole += stack.samples;
        } else {
            *others.entry(user.join(";")).or_insert(0) += stack.samples;
        }
    }
    let percent = whole as f64 * 100.0 / f64::max(all as f64, 1.0);
    println!("{SIGNALS} {all} samples in handlers, {percent:.2} % lead to what was interrupted");
    if percent >= TABLELESS_WHOLE_PERCENT_MIN && all > 500 {
        Vec::new()
    } else {
        vec![format!("{SIGNALS}: {percent:.2} % of {all} samples lead to what was interrupted: {others:#?}")]
    }
}

#[test]
fn stacks_without_frame_pointers_are_whole_on_a_kernel_without_bpf_loop() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let recording = Recording::start_with(FREQUENCY_HZ, &["--bounded-loop"]);
    run_deep();
    let faults = deep_faults(&recording.stop().folded);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Nothing called what a signal interrupted, nor the place that its handler returns to: one byte before, other functions end.
#[test]
fn what_a_signal_interrupts_and_its_way_back_have_their_names() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut programs = vec![("wl-fault", workloads::frameless_fault())];
    match gate::musl() {
        Ok(()) => programs.push(("wl-mu-fault", workloads::musl_fault())),
        Err(missing) => gate::skip("the program without tables, with musl", &missing),
    }
    let recording = Recording::start(FREQUENCY_HZ);
    for (_, program) in &programs {
        make_known(program, "0.5");
        workloads::succeed(Command::new(program).arg("2"));
    }
    let recorded = recording.stop();
    programs.iter().for_each(|(comm, _)| check_fault(&recorded.folded.of(comm), comm));
}

/// Of a program that works in handlers of a fault all stacks are that of its work.
#[track_caller]
fn check_fault(own: &Profile, comm: &str) {
    const STACK: &str = "main;faults;__restore_rt;on_fault;work";
    let line = |stack: &Stack| stack.user().map(|frame| frame.name.as_str()).collect::<Vec<_>>().join(";");
    let (mut right, mut all) = (0, 0);
    for stack in own.stacks.iter().filter(|stack| stack.user().any(|frame| frame.name == "work")) {
        let line = line(stack);
        let is_right = line.ends_with(STACK);
        // Those that come before the tables do may be short, but not wrong.
        assert!(is_right || STACK.ends_with(&line), "{line}");
        all += stack.samples;
        right += if is_right { stack.samples } else { 0 };
    }
    println!("{comm}: {right} of {all} samples are {STACK}");
    assert!(all > 100 && right * 100 >= all * 90, "{comm}: {right} of {all}");
}

/// While `vfork` is in the kernel its return address is in a register: the child will run on the same stack.
#[test]
fn who_makes_children_by_vfork_is_known() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let recording = Recording::start(FREQUENCY_HZ);
    make_known(&workloads::frameless_vfork(), "2000");
    workloads::succeed(Command::new(workloads::frameless_vfork()).arg("60000"));
    let recorded = recording.stop();
    let own = recorded.folded.of("wl-vfork");
    let (mut known, mut all) = (0, 0);
    for stack in &own.stacks {
        let mut user = stack.user().map(|frame| frame.name.as_str()).rev();
        if user.next().is_none_or(|leaf| !leaf.ends_with("vfork")) {
            continue;
        }
        all += stack.samples;
        if stack.cut().is_none() && user.next() == Some("make_children") && user.next() == Some("main") {
            known += stack.samples;
        }
    }
    println!("{known} of {all} samples in vfork have their callers");
    assert!(all > 100 && known * 100 >= all * 98, "{known} of {all}");
}

/// A process that exits, or becomes another program, has no memory any more, and the kernel works on for it: of one that does
/// little else that is a quarter of its time. It has no stack of its own then; it is not one that was cut.
#[test]
fn who_exits_or_executes_has_no_user_stack() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let recording = Recording::start(999);
    let loops = "i=0; while [ $i -lt 2000 ]; do /bin/true; i=$((i+1)); done";
    workloads::succeed(Command::new("sh").args(["-c", loops]));
    let recorded = recording.stop();
    let own = recorded.folded.of("true");
    let (mut cut, mut all, mut exits) = (BTreeMap::new(), 0, 0);
    for stack in &own.stacks {
        all += stack.samples;
        if let Some(reason) = stack.cut() {
            *cut.entry(reason.to_string()).or_insert(0) += stack.samples;
        }
        if stack.frames.iter().any(|frame| frame.name.starts_with("do_exit")) {
            exits += stack.samples;
        }
    }
    println!("{all} samples, {exits} of them in an exit; cut: {cut:?}");
    let lost: u64 = cut.values().sum();
    assert!(exits > 50 && lost * 100 <= all * 5, "{all}, {exits} in an exit, {cut:?}");
}

/// What a budget for tables is too small for is walked by frame pointer, which loses callers and says so, and nothing else.
#[test]
fn a_budget_that_is_too_small_for_any_table_costs_nothing_but_callers() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    // None is wanted; none fits; a few fit, and take one another's place.
    for budget in ["0", "1KiB", "768KiB"] {
        let recording = Recording::start_with(FREQUENCY_HZ, &["--unwind-bytes-max", budget]);
        let spent = Running::start(Command::new(workloads::frameless_c()).arg("4")).finish();
        let recorded = recording.stop();
        let report = Report::new(&recorded.pprof, recorded.pprof.period_ns, "wl-bare-c", &spent);
        println!("{budget}: {report}\n{}", recorded.ended.said);
        let off = report.weight_percent_off();
        let is_right = off > -10.0 && off < 10.0 + report.stolen_percent();
        assert!(report.samples > 300 && is_right, "{budget}: {report}");
        if budget != "768KiB" {
            assert!(report.whole_percent < 50.0, "{budget}, and there were tables: {report}");
            let reason = report.strangers.iter().any(|(_, line)| line.contains("[no frame pointer]"));
            assert!(reason, "{budget}: no stack says why it is cut: {:?}", report.strangers.first());
        }
    }
}

/// Runs each program for so many CPU seconds, one after the other.
fn run_each<'a>(programs: &[(&'a str, PathBuf)], cpu_seconds: f64) -> Vec<(&'a str, Spent)> {
    let run = |(comm, program): &(&'a str, PathBuf)| {
        (*comm, Running::start(Command::new(program).arg(cpu_seconds.to_string())).finish())
    };
    programs.iter().map(run).collect()
}

/// Runs `program` under another name, so that its files are known when it runs under its own: the first samples of a file come before
/// its table.
fn make_known(program: &Path, argument: &str) {
    let folder = tempfile::tempdir_in(program.parent().expect("it lies in a folder")).expect("a folder");
    let known = folder.path().join("wl-known");
    // A link to the file itself would change it: when it was last changed is part of what makes it this file.
    std::os::unix::fs::symlink(program, &known).expect("another name for the same file");
    workloads::succeed(Command::new(known).args([argument, "1"]));
    std::thread::sleep(Duration::from_secs(1));
}

/// How deep the stacks of the deep program are.
const DEPTHS: [usize; 3] = [12, 60, 300];

/// Runs the deep program at each depth.
fn run_deep() {
    make_known(&workloads::frameless_deep(), "12");
    for frames in DEPTHS {
        let frames = frames.to_string();
        workloads::succeed(Command::new(workloads::frameless_deep()).args([&frames, "4"]));
    }
}

/// What is wrong with its stacks. All depths have one name: a stack is whole if it is as deep as one of them from main() on.
fn deep_faults(profile: &Profile) -> Vec<String> {
    let own = profile.of("wl-bare-deep");
    let (mut whole, mut all) = (0, 0);
    for stack in own.stacks.iter().filter(|stack| stack.in_user_code()) {
        // What the compiler inlined is a frame of its own where debug information is read.
        let frames = stack.user().filter(|frame| ["main", "down", "bottom"].contains(&frame.name.as_str()));
        let is_whole = DEPTHS.contains(&frames.count());
        all += stack.samples;
        whole += if is_whole { stack.samples } else { 0 };
    }
    let percent = whole as f64 * 100.0 / f64::max(all as f64, 1.0);
    println!("wl-bare-deep {all} samples, whole {percent:.2} %");
    let is_enough = percent >= FRAMELESS_WHOLE_PERCENT_MIN && all > 900;
    if is_enough {
        Vec::new()
    } else {
        vec![format!("wl-bare-deep: {percent:.2} % of {all} samples are whole")]
    }
}

#[test]
fn a_recorded_command_gives_its_exit_code_and_nothing_but_itself_and_its_children() {
    need!(gate::bpf());
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let program = workloads::shop_c("wl-c").display().to_string();
    let mut other = Command::new(workloads::shop_c("wl-other"));
    let other = Running::start(other.arg("3"));
    let recorded = record_command(FREQUENCY_HZ, &["sh", "-c", "\"$0\" 2; exit 7", &program]);
    assert_eq!(recorded.ended.status.code(), Some(7), "{}", recorded.ended.said);
    let samples = recorded.folded.of("wl-c").samples();
    // A fifth is three standard deviations where the program has to share its processor.
    assert!((158..=238).contains(&samples), "{samples} samples of two CPU seconds at 99 Hz");
    let strangers: Vec<_> = recorded
        .folded
        .stacks
        .iter()
        .map(|s| s.comm.as_str())
        .filter(|c| !["wl-c", "sh"].contains(c))
        .collect();
    assert_eq!(strangers, [""; 0], "processes that nobody asked for");
    other.finish();
}
