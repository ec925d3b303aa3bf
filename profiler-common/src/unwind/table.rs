//! Unwind tables as both sides lay them out: 32-bit words in slabs.
//!
//! In: what a compiler wrote about its frames, as [`Rule`]s. Out: words that a search of a few steps finds again. Not
//! here: the search itself (`walk.rs`), and where the rules come from.
//!
//! A word's *address* is its slab, then its place in the slab, sixteen bits each. Address 0 means none. Three kinds of
//! runs lie in slabs, and none crosses from one into the next:
//!
//! * A **block** for [`PAGE_BYTES`] of a file. [`STARTS_WORDS`] words of 16-bit numbers, the lower half first: for each
//!   granule of [`GRANULE_BYTES`] the number of its first row, then the number of rows. Then the rows, one word each,
//!   ascending in their granule. Then the rare rules, two words each. The first row of a granule lies at its first byte,
//!   so that a search never leaves its granule; a granule without rows says nothing.
//! * A **directory** of a file's table: for each page from the first with rows to the last, the address of its block, or 0.
//! * A **list** of a process's executable mappings, [`MAPPING_WORDS`] words each, ascending: [`Mapping`].
//!
//! Rows are found by file offset: a mapping then needs no more than where it lies.

/// Words of a slab: 256 KiB, the largest run that is needed, and one memory map.
pub const SLAB_WORDS: usize = 1 << 16;

/// Words that lie together, of one table or of several.
pub type Slab = [u32; SLAB_WORDS];

/// Bytes of a file whose rows are one block.
pub const PAGE_BYTES: u64 = 1 << 16;

/// Bytes of a file among whose rows a search chooses.
pub const GRANULE_BYTES: u64 = 1 << 8;

/// Granules of a page.
pub const GRANULES: usize = 256;

/// Words at a block's beginning that say where each granule's rows begin.
pub const STARTS_WORDS: usize = GRANULES / 2 + 1;

/// Pages of one table at most: a directory is one run. Four gigabytes of a file.
pub const TABLE_PAGES_MAX: usize = SLAB_WORDS;

/// Words of a mapping in a list.
pub const MAPPING_WORDS: usize = 8;

/// Mappings in a list at most: what one slab holds. A process with more walks by frame pointer in those left out.
pub const MAPPINGS_MAX: usize = SLAB_WORDS / MAPPING_WORDS;

/// Where a row's kind is: its three highest bits. The lowest eight are the low byte of the offset from which it holds.
pub const KIND_SHIFT: u32 = 29;
/// `CFA = rsp + 8 * a`, `a` in bits 8..19; the caller's rbp is at `CFA - 8 * b`, `b` in bits 19..29, 0 if unchanged. On aarch64 rsp
/// stands for sp, rbp for x29 here and below, and x30 lies right above x29, or both are unchanged.
pub const KIND_RSP: u32 = 0;
/// The same from rbp.
pub const KIND_RBP: u32 = 1;
/// The outermost function: its return address is undefined.
pub const KIND_STOP: u32 = 2;
/// A stub of the linker on x86_64: `CFA = rsp + 8`, and 8 more from byte `a` of its 16.
pub const KIND_PLT: u32 = 3;
/// The same number on aarch64, whose stubs have no frame: `CFA = sp + 8 * a`; x30 is at `CFA - 8 * b`, and x29 unchanged.
pub const KIND_LINK: u32 = KIND_PLT;
/// The trampoline by which a signal handler returns: the interrupted registers lie above.
pub const KIND_SIGNAL: u32 = 4;
/// A rare rule: bits 8..29 are the word of its block at which it is.
pub const KIND_SIDE: u32 = 5;
/// Nothing is known here: a checked step by frame pointer.
pub const KIND_POINTER: u32 = 6;
/// Known, and not to be expressed: it needs registers that a walk does not carry.
pub const KIND_INVALID: u32 = 7;

/// Rare: `CFA = rsp + i32`. The first word is the number, or two numbers of 16 bits; the lowest three bits of the second
/// are the form, the next two say from where the caller's rbp is counted ([`SAVED_CFA`] and its like), and the rest is how far, signed.
pub const FORM_RSP: u32 = 0;
/// Rare: `CFA = rbp + i32`.
pub const FORM_RBP: u32 = 1;
/// Rare: `CFA = *(rsp + i16) + i16`, the inner number in the lower half.
pub const FORM_AT_RSP: u32 = 2;
/// Rare: `CFA = *(rbp + i16) + i16`.
pub const FORM_AT_RBP: u32 = 3;
/// Rare: as by frame pointer, but its frame may be on another stack, and so below.
pub const FORM_ELSEWHERE: u32 = 4;
/// Rare, on x86_64: `CFA = rsp + i16`, and the return address is not on the stack but in the register that the upper half says
/// ([`Holder`]): of the innermost frame alone is it known.
pub const FORM_HELD: u32 = 5;
/// Where a form ends and where the caller's rbp begins.
pub const SAVED_SHIFT: u32 = 3;
/// Where the distance of the caller's rbp begins.
pub const DISTANCE_SHIFT: u32 = 5;
/// The caller's rbp is unchanged.
pub const SAVED_NOT: u32 = 0;
/// The caller's rbp is saved so far from the CFA.
pub const SAVED_CFA: u32 = 1;
/// The caller's rbp is saved so far from rsp.
pub const SAVED_RSP: u32 = 2;
/// The same number on aarch64: x30 alone is saved, so far from the CFA.
pub const SAVED_LINK: u32 = SAVED_RSP;
/// The caller's rbp is saved so far from rbp.
pub const SAVED_RBP: u32 = 3;

/// How one stretch of code finds its caller. The return address is always the word below the CFA (the caller's rsp) on x86_64, and
/// on aarch64 the one above the caller's x29, or in x30 if x29 is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A frame as compilers make them.
    Frame {
        /// Where the CFA is.
        cfa: Cfa,
        /// Where the caller's rbp is.
        rbp: Saved,
    },
    /// See [`KIND_STOP`].
    Stop,
    /// See [`KIND_PLT`]; the byte of the stub from which something is pushed.
    Plt(u8),
    /// See [`KIND_LINK`].
    Link {
        /// Bytes from sp up to the CFA.
        above: i32,
        /// Bytes from the CFA down to x30.
        below: i32,
    },
    /// See [`KIND_SIGNAL`].
    Signal,
    /// See [`FORM_ELSEWHERE`].
    Elsewhere,
    /// See [`FORM_HELD`].
    Held {
        /// Bytes from rsp up to the CFA.
        above: i16,
        /// What has the return address.
        by: Holder,
    },
    /// See [`KIND_POINTER`].
    Pointer,
    /// See [`KIND_INVALID`].
    Invalid,
}

/// A register that holds a return address while the stack does not: of a `vfork`, whose child runs on the same stack and would write over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Holder {
    /// As in the C library.
    Rdi = 0,
    /// As in Go's.
    R12 = 1,
}

/// Where the canonical frame address is: what rsp was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cfa {
    /// So many bytes above rsp.
    Rsp(i32),
    /// So many bytes above rbp.
    Rbp(i32),
    /// The word so many bytes above rsp, and so many more.
    AtRsp(i16, i16),
    /// The word so many bytes above rbp, and so many more.
    AtRbp(i16, i16),
}

/// Where the caller's rbp is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Saved {
    /// In rbp.
    Not,
    /// So many bytes above the CFA (below, mostly).
    Cfa(i32),
    /// So many bytes above rsp.
    Rsp(i32),
    /// So many bytes above rbp.
    Rbp(i32),
}

/// A rule as it lies in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// A row without the low byte of its offset.
    Row(u32),
    /// A rare rule.
    Side([u32; 2]),
}

impl Rule {
    /// The rule in words. What no words can say, a frame of more than two gigabytes or so, is [`Rule::Invalid`].
    pub fn pack(self) -> Packed {
        let row = |kind: u32, value: u32| Packed::Row(kind << KIND_SHIFT | value << 8);
        match self {
            Self::Stop => row(KIND_STOP, 0),
            Self::Plt(from) => row(KIND_PLT, from as u32),
            Self::Link { above, below } if below > 0 => match small(above, below) {
                Some(numbers) => Packed::Row(KIND_LINK << KIND_SHIFT | numbers),
                None => match rare_words(FORM_RSP, above as u32, SAVED_LINK, -below) {
                    Some(side) => Packed::Side(side),
                    None => row(KIND_INVALID, 0),
                },
            },
            Self::Link { .. } => row(KIND_INVALID, 0),
            Self::Signal => row(KIND_SIGNAL, 0),
            Self::Elsewhere => Packed::Side([0, FORM_ELSEWHERE]),
            Self::Held { above, by } => Packed::Side([both(above, by as u16), FORM_HELD]),
            Self::Pointer => row(KIND_POINTER, 0),
            Self::Invalid => row(KIND_INVALID, 0),
            Self::Frame { cfa, rbp } => match (common(cfa, rbp), rare(cfa, rbp)) {
                (Some(row), _) => Packed::Row(row),
                (None, Some(side)) => Packed::Side(side),
                (None, None) => row(KIND_INVALID, 0),
            },
        }
    }
}

/// A frame whose numbers are small multiples of eight, as nearly all are.
fn common(cfa: Cfa, rbp: Saved) -> Option<u32> {
    let (kind, above) = match cfa {
        Cfa::Rsp(above) => (KIND_RSP, above),
        Cfa::Rbp(above) => (KIND_RBP, above),
        Cfa::AtRsp(..) | Cfa::AtRbp(..) => return None,
    };
    let below = match rbp {
        Saved::Not => 0,
        Saved::Cfa(above) if above < 0 => above.checked_neg()?,
        Saved::Cfa(_) | Saved::Rsp(_) | Saved::Rbp(_) => return None,
    };
    Some(kind << KIND_SHIFT | small(above, below)?)
}

/// Two small multiples of eight as they lie in a row.
fn small(above: i32, below: i32) -> Option<u32> {
    let (a, b) = (u32::try_from(above).ok()?, u32::try_from(below).ok()?);
    let fits = a % 8 == 0 && b % 8 == 0 && a / 8 < 1 << 11 && b / 8 < 1 << 10;
    fits.then_some((a / 8) << 8 | (b / 8) << 19)
}

/// Two halves of a word.
fn both(lower: i16, upper: u16) -> u32 {
    u32::from(lower as u16) | u32::from(upper) << 16
}

fn rare(cfa: Cfa, rbp: Saved) -> Option<[u32; 2]> {
    let (form, number) = match cfa {
        Cfa::Rsp(above) => (FORM_RSP, above as u32),
        Cfa::Rbp(above) => (FORM_RBP, above as u32),
        Cfa::AtRsp(inner, outer) => (FORM_AT_RSP, both(inner, outer as u16)),
        Cfa::AtRbp(inner, outer) => (FORM_AT_RBP, both(inner, outer as u16)),
    };
    let (saved, distance) = match rbp {
        Saved::Not => (SAVED_NOT, 0),
        Saved::Cfa(distance) => (SAVED_CFA, distance),
        Saved::Rsp(distance) => (SAVED_RSP, distance),
        Saved::Rbp(distance) => (SAVED_RBP, distance),
    };
    rare_words(form, number, saved, distance)
}

/// A rare rule in words, if the distance fits.
fn rare_words(form: u32, number: u32, saved: u32, distance: i32) -> Option<[u32; 2]> {
    let packed = distance << DISTANCE_SHIFT;
    (packed >> DISTANCE_SHIFT == distance).then_some([number, form | saved << SAVED_SHIFT | packed as u32])
}

/// Where the list of a process's mappings lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingList {
    /// Address of the first word.
    pub address: u32,
    /// How many mappings.
    pub mappings: u32,
    /// A number that no list had before this one was written as it is; zero for none.
    pub version: u32,
}
wire!(MappingList: 12 bytes, address @ 0, mappings @ 4, version @ 8);

/// One executable mapping of a process in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// Bytes mapped.
    pub bytes: u64,
    /// What makes an address the offset in the file, counted from the first page of the table: to be added, and wraps.
    pub shift: u64,
    /// Address of the table's directory; 0 if there is no table: then steps are by frame pointer.
    pub directory: u32,
    /// Pages that the directory has, less than 2^24, and [`KEEPS_FRAMES`], [`WANTED`] or [`COMING`].
    pub pages: u32,
}

/// Nearly every function of the file keeps a frame pointer: its table is used for the innermost frame and for what a signal
/// interrupted, and the rest is walked by pointer, at a third of the cost. Beside [`Mapping::pages`].
pub const KEEPS_FRAMES: u32 = 1 << 24;
/// There is no table, but there may be one if it is asked for. Beside [`Mapping::pages`].
pub const WANTED: u32 = 1 << 25;
/// There is no table yet, but it was asked for: until it comes, a sample's stack is of use. Beside [`Mapping::pages`].
pub const COMING: u32 = 1 << 26;
/// The number of pages in [`Mapping::pages`].
pub const PAGES_MASK: u32 = KEEPS_FRAMES - 1;

impl Mapping {
    /// A mapping of a file without a table, or of memory without a file.
    pub const fn bare(start: u64, bytes: u64) -> Self {
        Self { start, bytes, shift: 0, directory: 0, pages: 0 }
    }

    /// A mapping, whose first byte is at `file_offset`, of a file with a table whose directory begins with page `first_page`.
    pub const fn of(
        start: u64,
        bytes: u64,
        file_offset: u64,
        directory: u32,
        first_page: u32,
        pages: u32,
    ) -> Self {
        let shift = file_offset.wrapping_sub(first_page as u64 * PAGE_BYTES).wrapping_sub(start);
        Self { start, bytes, shift, directory, pages }
    }

    /// As it lies in a list.
    pub const fn words(&self) -> [u32; MAPPING_WORDS] {
        let Self { start, bytes, shift, directory, pages } = *self;
        let (start, bytes, shift) = (halves(start), halves(bytes), halves(shift));
        [start[0], start[1], bytes[0], bytes[1], shift[0], shift[1], directory, pages]
    }
}

/// Both halves of `double_word`, the lower first.
#[expect(clippy::cast_possible_truncation, reason = "halves are what is wanted")]
const fn halves(double_word: u64) -> [u32; 2] {
    [double_word as u32, (double_word >> 32) as u32]
}
