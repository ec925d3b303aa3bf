//! `wire!`: what a type looks like in memory, proven when either side builds.

/// States the size and the offset of every field of a `#[repr(C)]` type, and proves at compile time that
/// both are right and that the fields fill the type without hidden padding.
///
/// Padding is not waste but noise: a map hashes it, a ring leaks it.
macro_rules! wire {
    ($name:ident: $size:literal bytes, $($field:ident @ $offset:literal),+ $(,)?) => {
        const _: () = {
            const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
                core::mem::size_of::<F>()
            }
            assert!(core::mem::size_of::<$name>() == $size, concat!(stringify!($name), ": size"));
            $(assert!(
                core::mem::offset_of!($name, $field) == $offset,
                concat!(stringify!($name.$field), ": offset")
            );)+
            assert!(
                0 $(+ size_of_field(|value: &$name| &value.$field))+ == $size,
                concat!(stringify!($name), ": hidden padding, or a field is missing from its wire! line")
            );
        };
    };
}
