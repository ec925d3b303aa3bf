// Frames that one often wants out of the way: the machinery of runtimes and libraries. Each preset is one pattern, so that
// an address with it needs no page that knows it.

export interface Preset {
  title: string;
  detail: string;
  pattern: string;
}

export const PRESETS: readonly Preset[] = [
  {
    title: "Async runtimes",
    detail: "tokio, futures, async-std, smol, mio",
    pattern: "/^<?(tokio|tokio_util|futures\\w*|async_std|async_executor|async_task|smol|mio|polling)::/",
  },
  {
    title: "Rust's own machinery",
    detail: "start, panics, closures behind traits",
    pattern: "/^(std::(rt|sys|sys_common|panic|panicking|thread)::|core::(ops::function|panicking)::|<alloc::boxed::Box<|__rust_)/",
  },
  { title: "libc and the loader", detail: "libc.so, ld-linux, pthread, vdso", pattern: "/(^|/)(libc|ld-linux[\\w-]*|ld-musl[\\w-]*|libpthread|libm)([.-][\\w.]*)?\\.so|^\\[vdso\\]$/" },
  { title: "The kernel", detail: "time goes to whoever called it", pattern: "/^\\[kernel/" },
  { title: "Go's runtime", detail: "runtime.*, but not what it runs", pattern: "/^runtime[./]/" },
];
