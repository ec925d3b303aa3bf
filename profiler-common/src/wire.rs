//! `wire!`: what a type looks like in memory, proven when either side builds.

/// States the size and the offset of every field of a `#[repr(C)]` type, and proves at compile time that
/// both are right and that the fields fill the type without hidden padding.
///
/// Padding is not waste but noise: a map hashes it, a ring leaks it.
macro_rules! wire {
    ($name:ident: $size:literal bytes, $($field:ident: $ty:ty @ $offset:literal),+ $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size, concat!(stringify!($name), ": size"));
            $(assert!(core::mem::offset_of!($name, $field) == $offset, concat!(stringify!($name.$field), ": offset"));)+
            assert!(0 $(+ core::mem::size_of::<$ty>())+ == $size, concat!(stringify!($name), ": hidden padding"));
            // A literal with every field and no `..` fails to compile when a field is missing from this line.
            #[allow(dead_code, reason = "never called: it exists to be type-checked")]
            const fn complete($($field: $ty),+) -> $name { $name { $($field),+ } }
        };
    };
}
