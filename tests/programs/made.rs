//! Programs that make code while they run: engines of JavaScript and Java, and a browser. By themselves, and told to write
//! down what code they make.

use profiler_tests::harness::workloads;

use super::list::{Program, installed};

/// Where the code of a page is: `run()` takes half a second, and is a function that no file has.
const PAGE: &str = "<script>function spin(n){return n<2?n:spin(n-1)+spin(n-2)}\n\
    function run(){const end=performance.now()+SECONDSe3;while(performance.now()<end)spin(18)}\n\
    run();document.title='done'</script>";

const NODE: &str = "function fib(n){return n<2?n:fib(n-1)+fib(n-2)}\n\
    function once(){fib(26);JSON.parse(JSON.stringify([...Array(500).keys()]))}\n\
    const t=process.cpuUsage();while(process.cpuUsage(t).user<SECONDSe6)once()";

/// Those that this machine has.
pub(crate) fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    programs.extend(node());
    programs.extend(java());
    programs.extend(chromium());
    programs
}

fn timed(text: &str, seconds: &str) -> String {
    text.replace("SECONDS", seconds)
}

fn node() -> Option<Program> {
    let node = installed("/usr/bin/node")?;
    let (long, short) = (timed(NODE, "3"), timed(NODE, "0.2"));
    // It would leave a log where it runs.
    let quiet = ["--no-logfile-per-isolate", "--logfile=/dev/null"];
    let told = ["--perf-basic-prof", "--interpreted-frames-native-stack", "-e", &long];
    let told = [&quiet[..], &told].concat();
    Some(Program {
        // The rest are its start, its compiler and its collector.
        named: Some(("fib", 85.0)),
        ..Program::new("node, named", &node, &told, &["-e", &short])
    })
}

fn java() -> Vec<Program> {
    let (Some(java), Some(_)) = (installed("/usr/bin/java"), installed("/usr/bin/javac")) else {
        return Vec::new();
    };
    let classes = workloads::classes("Made");
    let classes = classes.display().to_string();
    let keep = "-XX:+PreserveFramePointer";
    let named = Program::new(
        "java, named",
        &java,
        &[keep, "-cp", &classes, "Made", "3", "named"],
        &["-cp", &classes, "Made", "0.2"],
    );
    let bare = Program::new("java", &java, &["-cp", &classes, "Made", "3"], &["-version"]);
    vec![
        // What is compiled before the map is written, and the interpreter, have no names.
        Program { named: Some(("Made.", 25.0)), ..named },
        // The code that it makes uses the register of frame pointers for something else, and nothing says how to go on. The
        // rest is the engine's own.
        Program { cut: &["no frame pointer", "anonymous code"], whole_percent_min: 80.0, ..bare },
    ]
}

fn chromium() -> Option<Program> {
    let chromium = installed("/usr/bin/chromium")?;
    let page = |seconds: &str| format!("data:text/html,{}", timed(PAGE, seconds).replace('\n', ""));
    let options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"];
    let (long, short) = (page("3"), page("1"));
    let (long, short) = ([&options[..], &[&long]].concat(), [&options[..], &[&short]].concat());
    Some(Program::new("chromium", &chromium, &long, &short))
}
