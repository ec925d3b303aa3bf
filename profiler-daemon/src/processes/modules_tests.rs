//! Files in a folder that are mapped, replaced, forged, lost and found again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::model::UserAddr;

/// Files in a folder, and a `/proc` whose process 7 maps them.
struct World {
    folder: tempfile::TempDir,
    procfs: Procfs,
    modules: Modules,
    meters: Meters,
    now: MonoNs,
}

fn world(config: &Config) -> World {
    let folder = tempfile::tempdir().unwrap();
    for sub in ["root", "7/map_files"] {
        fs::create_dir_all(folder.path().join(sub)).unwrap();
    }
    symlink(folder.path().join("root"), folder.path().join("7/root")).unwrap();
    let meters = Meters::default();
    let modules = Modules::new(config, &meters);
    World { procfs: Procfs::new(folder.path()), folder, modules, meters, now: MonoNs(1_000_000_000_000) }
}

impl World {
    fn write(&self, path: &str, contents: &str) -> PathBuf {
        let file = self.folder.path().join("root").join(&path[1..]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, contents).unwrap();
        file
    }

    fn pin(&mut self, path: &str, build_id: Option<&[u8]>) -> Option<Arc<Module>> {
        self.pin_of(7, path, build_id)
    }

    fn pin_of(&mut self, pid: u32, path: &str, build_id: Option<&[u8]>) -> Option<Arc<Module>> {
        let mapping = Mapping {
            start: UserAddr(0x1_0000_0000),
            end: UserAddr(0x1_0000_1000),
            file_offset: 0,
            path: path.as_bytes().into(),
            build_id: build_id.and_then(BuildId::new),
            module: None,
        };
        self.modules.pin(&self.procfs, pid, &mapping, None, self.now)
    }

    #[track_caller]
    fn check_meter(&self, line: &str) {
        let page = self.meters.render();
        assert!(page.lines().any(|seen| seen == line), "{line} is not in\n{page}");
    }
}

#[track_caller]
fn check_backing(path: &str, expected: Backing) {
    assert_eq!(Backing::of(path.as_bytes()), expected, "{path}");
}

#[test]
fn names_tell_what_is_behind_a_mapping() {
    check_backing("/usr/bin/a", Backing::File);
    check_backing("/usr/bin/a (deleted)", Backing::File);
    check_backing("[vdso]", Backing::Vdso);
    for path in ["", "//anon", "[heap]", "[stack]", "[uprobes]", "[vsyscall]", "anon_inode:[x]"] {
        check_backing(path, Backing::Nothing);
    }
    for path in ["/memfd:x (deleted)", "/dev/zero (deleted)", "/SYSV00000000 (deleted)"] {
        check_backing(path, Backing::Memory);
    }
}

#[test]
fn the_same_file_is_the_same_module_whatever_it_is_called() {
    let mut world = world(&Config::default());
    let file = world.write("/a", "one");
    fs::hard_link(&file, file.with_file_name("b")).unwrap();
    let (a, b) = (world.pin("/a", None).unwrap(), world.pin("/b", Some(b"id")).unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert!(a.file.is_some() && a.identity.is_some());
    world.check_meter("profiler_modules_open 1.0");
}

#[test]
fn a_forged_build_id_does_not_make_two_files_one() {
    let mut world = world(&Config::default());
    world.write("/a", "one");
    world.write("/b", "two");
    let (a, b) = (world.pin("/a", Some(b"id")).unwrap(), world.pin("/b", Some(b"id")).unwrap());
    assert_ne!(a.id, b.id);
}

#[test]
fn a_file_of_a_process_that_is_gone_is_recognised_by_path_and_build_id() {
    let mut world = world(&Config::default());
    world.write("/a", "one");
    let a = world.pin("/a", Some(b"id")).unwrap();
    assert!(Arc::ptr_eq(&a, &world.pin_of(8, "/a", Some(b"id")).unwrap()));
    for (path, id) in [("/b", Some(&b"id"[..])), ("/a", Some(b"other")), ("/a", None)] {
        let other = world.pin_of(8, path, id).unwrap();
        assert_ne!(a.id, other.id);
        assert!(other.file.is_none() && other.identity.is_none());
    }
    world.check_meter("profiler_modules_unopened_total 3");
}

#[test]
fn a_build_id_that_the_kernel_read_later_is_learned() {
    let mut world = world(&Config::default());
    world.write("/a", "one");
    let a = world.pin("/a", None).unwrap();
    assert!(Arc::ptr_eq(&a, &world.pin("/a", Some(b"id")).unwrap()));
    assert!(Arc::ptr_eq(&a, &world.pin_of(8, "/a", Some(b"id")).unwrap()));
}

#[test]
fn two_files_of_one_name_are_not_guessed_between() {
    let mut world = world(&Config::default());
    world.write("/a", "one");
    let first = world.pin("/a", Some(b"id")).unwrap();
    world.write("/a", "another");
    let second = world.pin("/a", Some(b"id")).unwrap();
    let gone = world.pin_of(8, "/a", Some(b"id")).unwrap();
    assert!(gone.id != first.id && gone.id != second.id && first.id != second.id);
}

#[test]
fn the_file_that_is_found_now_may_not_be_the_one_that_was_mapped() {
    let mut world = world(&Config::default());
    world.write("/a", "one");
    let a = world.pin("/a", Some(b"id")).unwrap();
    let other = world.pin("/a", Some(b"before an upgrade")).unwrap();
    assert_ne!(a.id, other.id);
    assert!(other.file.is_none());
}

#[test]
fn unopened_files_of_one_name_are_one_module() {
    let mut world = world(&Config::default());
    let (a, b) = (world.pin_of(8, "/a", None).unwrap(), world.pin_of(9, "/a", None).unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(a.display_name(), "a");
}

#[test]
fn a_file_in_no_use_is_closed_after_a_while_and_stays_known() {
    let mut world = world(&Config::default());
    world.write("/a", "one");
    let used = world.pin("/a", None).unwrap();
    let id = used.id;
    world.modules.sweep(world.now);
    world.modules.sweep(world.now.plus(Duration::from_secs(100)));
    world.check_meter("profiler_modules_open 1.0");
    drop(used);
    world.modules.sweep(world.now.plus(Duration::from_secs(110)));
    world.check_meter("profiler_modules_open 1.0");
    world.modules.sweep(world.now.plus(Duration::from_secs(130)));
    world.check_meter("profiler_modules_open 0.0");
    let again = world.pin("/a", None).unwrap();
    assert!(again.file.is_some());
    assert_eq!(again.id, id);
}

#[test]
fn too_many_open_files_are_known_without_being_opened() {
    let mut world = world(&Config { modules_open_max: 2, ..Config::default() });
    for path in ["/a", "/b", "/c"] {
        world.write(path, path);
    }
    let mut used: Vec<_> = ["/a", "/b", "/c"].map(|path| world.pin(path, None).unwrap()).into();
    assert!(used[1].file.is_some() && used[2].file.is_none() && used[2].identity.is_some());
    world.check_meter("profiler_modules_over_open_max_total 1");
    used.remove(0);
    let again = world.pin("/c", None).unwrap();
    assert!(again.file.is_some());
    assert_eq!(again.id, used[1].id);
    world.check_meter("profiler_modules_open 2.0");
}

#[test]
fn too_many_files_are_forgotten_idle_ones_first() {
    let mut world = world(&Config { modules_known_max: 4, ..Config::default() });
    let used = {
        world.write("/used", "x");
        world.pin("/used", None).unwrap()
    };
    for i in 0..20 {
        let path = format!("/{i}");
        world.write(&path, &path);
        assert!(world.pin(&path, Some(b"id")).unwrap().file.is_some());
    }
    assert!(world.modules.known.len() <= 4);
    assert!(world.modules.by_name.len() <= 8);
    assert!(Arc::ptr_eq(&used, &world.pin("/used", None).unwrap()));
}

#[test]
fn memory_is_a_module_only_if_it_holds_a_program() {
    let mut world = world(&Config::default());
    let memory = |contents: &[u8]| {
        let memory = fs::File::from(memfd_create("memory", MemfdFlags::CLOEXEC).unwrap());
        memory.write_all_at(contents, 0).unwrap();
        memory
    };
    let link = world.folder.path().join("7/map_files/100000000-100001000");
    let mut pin = |what: &str| {
        fs::remove_file(&link).ok();
        symlink(what, &link).unwrap();
        world.pin("/memfd:program (deleted)", None)
    };
    let (program, compiled) = (memory(b"\x7fELF"), memory(b"machine code"));
    let path = |memory: &fs::File| format!("/proc/self/fd/{}", memory.as_raw_fd());
    assert!(pin(&path(&program)).unwrap().file.is_some());
    assert!(pin(&path(&compiled)).is_none());
    assert!(pin("/nowhere").is_none());
    // A file of that name may be on any file system, and reading it may take for ever.
    assert!(pin("/proc/self/exe").is_none());
    world.check_meter("profiler_modules_open 1.0");
}

#[test]
fn every_process_has_the_same_vdso() {
    let mut world = world(&Config::default());
    let (a, b) = (world.pin("[vdso]", None).unwrap(), world.pin_of(8, "[vdso]", None).unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(a.kind, ModuleKind::Vdso);
}
