//! A file of any bytes: its unwind table is made or not, and a walk by it ends.

#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use profiler_common::unwind::Regs;
use profiler_common::unwind::aarch64::Aarch64;
use profiler_common::unwind::recent::Recent;
use profiler_common::unwind::table::{Mapping, MappingList, SLAB_WORDS, STARTS_WORDS, Slab};
use profiler_common::unwind::walk::{CONTINUE, Walk, Window};
use profiler_daemon::symbolize::table_of;

thread_local! {
    static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a file"));
}

const BASE: u64 = 0x5555_0000_0000;
const STACK: u64 = 0x7ff0_0000_0000;

fuzz_target!(|bytes: &[u8]| {
    let table = FILE.with_borrow(|file| {
        file.set_len(0).expect("it can be emptied");
        file.write_all_at(bytes, 0).expect("it can be written");
        table_of(file)
    });
    let Ok(table) = table else { return };
    // The first slab is the list, the second the directory, the others hold a block each.
    let mut slabs: Vec<Box<Slab>> = vec![slab(&[]), slab(&[])];
    for (page, words) in table.blocks.iter().enumerate().take(8).filter(|(_, words)| !words.is_empty()) {
        assert!((STARTS_WORDS..=SLAB_WORDS).contains(&words.len()));
        slabs[1][page] = u32::try_from(slabs.len() << 16).expect("a few");
        slabs.push(slab(words));
    }
    let pages = u32::try_from(table.blocks.len()).expect("no more than a directory has");
    let mapping = Mapping::of(BASE, 1 << 40, 0, 1 << 16, 0, pages);
    slabs[0][..8].copy_from_slice(&mapping.words());
    let mut recent = Recent::new();
    for offset in (0..8 << 16).step_by(97) {
        let mut walk = Walk::new(Regs::default());
        let regs = Regs { ip: BASE + offset, sp: STACK, fp: STACK + 0x100 };
        // Of each offset, a walk that remembers those before it.
        walk.restart(regs, MappingList { address: 0, mappings: 1, version: 1 });
        let mut read = |window: &mut Window, at: u64, bytes: u64| {
            for (word, at) in window.iter_mut().zip((at..).step_by(8)).take((bytes / 8) as usize) {
                let random = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                *word = if random & 8 == 0 { BASE + random % (8 << 16) } else { STACK + random / 8 * 8 };
            }
            true
        };
        for _ in 0..64 {
            let slab = |number| slabs.get(number as usize).map(|slab: &Box<Slab>| &**slab);
            // Rows of one processor do the other no harm.
            let went = if offset % 2 == 0 {
                walk.step(&mut read, &slab, &mut recent)
            } else {
                walk.step_on::<Aarch64>(&mut read, &slab, &mut recent)
            };
            if went != CONTINUE {
                break;
            }
        }
    }
});

fn slab(words: &[u32]) -> Box<Slab> {
    let mut slab = vec![0; SLAB_WORDS];
    slab[..words.len()].copy_from_slice(words);
    slab.into_boxed_slice().try_into().expect("it is as long")
}
