//! What real SDKs from the registries push is there when one asks: programs that were written for a Pyroscope, unchanged.
//!
//! In: a program for each language, in `sdks/`, whose SDK is fetched by the language's own client once and kept in the
//! target directory. Out: what `profiler-daemon query` says of it. Skipped aloud where a tool or its registry is not
//! there; with `TEST_REQUIRE_SDKS=1` that is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_tests::harness::daemon::binary;
use profiler_tests::harness::gate::{self, Missing};
use profiler_tests::harness::workloads::target_dir;
use profiler_tests::need;
use tempfile::TempDir;

use crate::serving::Serving;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("server/sdks")
}

/// Where the SDK of `language` is kept.
fn kept(language: &str) -> PathBuf {
    let folder = target_dir().join("sdks").join(language);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Runs `command`, which needs a registry.
fn fetch(command: &mut Command) -> Result<(), Missing> {
    let why = match command.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Missing { required_by: "TEST_REQUIRE_SDKS", what: format!("{:?}: {why}", command.get_program()) })
}

/// The embedded server with what a program has pushed.
struct Pushed {
    server: Serving,
    _folder: TempDir,
}

impl Pushed {
    /// Runs `program` to its end.
    #[track_caller]
    fn by(program: &mut Command) -> Self {
        let folder = TempDir::new().expect("a folder");
        let server = Serving::start(folder.path());
        let output = program.env("PYROSCOPE_SERVER", server.url()).output().expect("it starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
        Self { server, _folder: folder }
    }

    /// `query` with `arguments` says all of `words`.
    #[track_caller]
    fn check(&self, arguments: &[&str], words: &[&str]) {
        let mut query = Command::new(binary());
        query.arg("query").args(arguments).args(["--server", self.server.url()]);
        let output = query.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        for words in words {
            assert!(said.contains(words), "{arguments:?} lacks {words:?}:\n{said}{errors}");
        }
    }
}

#[test]
fn go() {
    need!(gate::go());
    let program = kept("go").join("purchases");
    let mut build = Command::new(gate::find("go").expect("it is there"));
    build.args(["build", "-o"]).arg(&program).arg(".").current_dir(sources().join("go"));
    need!(fetch(build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly")));
    let pushed = Pushed::by(&mut Command::new(program));
    pushed.check(
        &["types"],
        &[
            "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
            "process_cpu:samples:count:cpu:nanoseconds",
            "memory:alloc_space:bytes:space:bytes",
            "memory:inuse_objects:count:space:bytes",
        ],
    );
    pushed.check(&["top", "backend.purchases"], &["main.pay"]);
    pushed.check(&["folded", "{controller=\"purchases\"}"], &["main.purchase;", "main.pay "]);
    pushed.check(&["tree", "backend.purchases", "-t", "alloc_space"], &["main.pay", "MiB"]);
    pushed
        .check(&["series", "backend.purchases"], &["pyroscope_spy=\"gospy\"", "process.runtime.name=\"go\""]);
}

#[test]
fn python() {
    need!(gate::program("python3", "TEST_REQUIRE_SDKS").map(drop));
    let packages = kept("python");
    if !packages.join("pyroscope").exists() {
        let mut install = Command::new("python3");
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        need!(fetch(install.arg(&packages).arg("pyroscope-io==1.4.0")));
    }
    let mut program = Command::new("python3");
    let pushed = Pushed::by(program.arg(sources().join("python.py")).env("PYTHONPATH", packages));
    pushed.check(&["types"], &["process_cpu:cpu:nanoseconds:cpu:nanoseconds"]);
    pushed.check(&["folded", "{service_name=\"python.purchases\", region=\"here\"}"], &["pay"]);
    pushed.check(&["labels", "-l", "controller"], &["purchases"]);
}

#[test]
fn node() {
    need!(gate::program("npm", "TEST_REQUIRE_SDKS").map(drop));
    let packages = kept("node");
    if !packages.join("node_modules/@pyroscope").exists() {
        let mut install = Command::new("npm");
        install.args(["install", "--no-audit", "--no-fund", "--prefix"]);
        need!(fetch(install.arg(&packages).arg("@pyroscope/nodejs@0.6.4")));
    }
    let mut program = Command::new("node");
    program.arg(sources().join("node.js")).env("NODE_PATH", packages.join("node_modules"));
    let pushed = Pushed::by(&mut program);
    pushed.check(&["types"], &["wall:wall:nanoseconds:wall:nanoseconds"]);
    pushed.check(&["top", "node.purchases", "-t", "wall"], &["pay"]);
    pushed.check(&["labels", "-l", "region"], &["here"]);
}

#[test]
fn rust() {
    let mut build = Command::new("cargo");
    let target = kept("rust");
    build.args(["build", "--locked", "--quiet", "--manifest-path"]).arg(sources().join("rust/Cargo.toml"));
    need!(fetch(build.arg("--target-dir").arg(&target)));
    let pushed = Pushed::by(&mut Command::new(target.join("debug/purchases")));
    pushed.check(&["types"], &["process_cpu:cpu:nanoseconds:cpu:nanoseconds"]);
    pushed.check(&["folded", "{service_name=\"rust.purchases\", region=\"here\"}"], &["pay"]);
}

/// Its profiles are recordings of the JVM's own, which are not read here; what it is told is what its user reads.
#[test]
fn java_says_to_its_user_why_it_is_refused() {
    need!(gate::program("java", "TEST_REQUIRE_SDKS").map(drop));
    need!(gate::program("mvn", "TEST_REQUIRE_SDKS").map(drop));
    let agent = kept("java").join("agent-2.1.2.jar");
    if !agent.exists() {
        let mut copy = Command::new("mvn");
        copy.args([
            "-q",
            "-B",
            "dependency:copy",
            "-Dartifact=io.pyroscope:agent:2.1.2",
            "-DoutputDirectory=.",
        ]);
        need!(fetch(copy.current_dir(kept("java"))));
    }
    let folder = TempDir::new().expect("a folder");
    let server = Serving::start(folder.path());
    let output = Command::new("java")
        .arg(format!("-javaagent:{}", agent.display()))
        .arg(sources().join("Purchases.java"))
        .env("PYROSCOPE_APPLICATION_NAME", "java.purchases")
        .env("PYROSCOPE_SERVER_ADDRESS", server.url())
        .env("PYROSCOPE_FORMAT", "jfr")
        .env("PYROSCOPE_UPLOAD_INTERVAL", "1s")
        .output()
        .expect("it starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("paid"), "the program is none the worse for it: {said}");
    assert!(said.contains("501") && said.contains("profiles in jfr are not read here"), "{said}");
    assert_eq!(server.total(), 0);
    server.stop();
}
