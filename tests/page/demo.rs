//! A server in this process, and profiles that look like a real machine's: for tests of the page and for drawing it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use profiler_daemon::meters::Meters;
use profiler_daemon::pprof::{
    Function, Line, Location, Mapping, Message, Profile, Sample, Strings, ValueType,
};
use profiler_daemon::server::wire::{LabelPair, PushRequest, RawProfileSeries, RawSample};
use profiler_daemon::server::{Config, serve};
use tokio::sync::oneshot;

/// CPU time: the name of its profiles, what they count, the unit.
const CPU: [&str; 3] = ["process_cpu", "cpu", "nanoseconds"];

/// A server in this process.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one at `listen`.
    pub(crate) fn start(listen: &str) -> Self {
        Self::start_as(listen, Config::default())
    }

    /// Starts one that behaves as `config` says.
    pub(crate) fn start_as(listen: &str, config: Config) -> Self {
        let listener = TcpListener::bind(listen).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let stopped = async { drop(stopped.await) };
            runtime.block_on(serve(listener, config, &Meters::default(), stopped)).expect("served");
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Pushes one profile: folded stacks, root first, of `duration_ns` from `start_ns` on. A frame is `name` or `name@module`.
    pub(crate) fn push(&self, service: &str, start_ns: i64, duration_ns: i64, stacks: &[(String, i64)]) {
        let hostname = hostname();
        let labels = [("service_name", service), ("hostname", hostname.as_str())];
        self.push_as(CPU, &labels, start_ns, duration_ns, stacks);
    }

    /// The same, of another kind or with other labels.
    pub(crate) fn push_as(
        &self,
        [name, kind, unit]: [&str; 3],
        labels: &[(&str, &str)],
        start_ns: i64,
        duration_ns: i64,
        stacks: &[(String, i64)],
    ) {
        let pair = |&(name, value): &(&str, &str)| LabelPair { name: name.into(), value: value.into() };
        let labels = [("__name__", name)].iter().chain(labels).map(pair).collect();
        let raw_profile = profile([kind, unit], start_ns, duration_ns, stacks).encode_to_vec();
        let series =
            vec![RawProfileSeries { labels, samples: vec![RawSample { raw_profile, id: String::new() }] }];
        let body = PushRequest { series }.encode_to_vec();
        let mut socket = TcpStream::connect(self.address).expect("the server");
        let head = format!(
            "POST /push.v1.PusherService/Push HTTP/1.1\r\nHost: {}\r\nContent-Type: application/proto\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        socket.write_all(&[head.as_bytes(), &body].concat()).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn profile([kind, unit]: [&str; 2], start_ns: i64, duration_ns: i64, stacks: &[(String, i64)]) -> Profile {
    let mut strings = Strings::default();
    let counted = ValueType { r#type: strings.intern(kind), unit: strings.intern(unit) };
    let mut profile = Profile {
        sample_type: vec![counted],
        period_type: Some(counted),
        period: 1_000_000_000 / 99,
        time_nanos: start_ns,
        duration_nanos: duration_ns,
        ..Profile::default()
    };
    let mut known = std::collections::HashMap::new();
    for (stack, value) in stacks {
        let mut location_id = Vec::new();
        for frame in stack.split(';') {
            let id = *known.entry(frame).or_insert_with(|| {
                let (name, module) = frame.split_once('@').unwrap_or((frame, ""));
                let id = profile.location.len() as u64 + 1;
                let (file, line) =
                    if name.contains("::") { ("src/service/handler.rs", 118) } else { ("", 0) };
                let (name, filename) = (strings.intern(name), strings.intern(module));
                profile.mapping.push(Mapping { id, filename, has_functions: true, ..Mapping::default() });
                let function = Function {
                    id,
                    name,
                    filename: strings.intern(file),
                    start_line: line,
                    ..Function::default()
                };
                profile.function.push(function);
                let line = vec![Line { function_id: id, line }];
                profile.location.push(Location { id, mapping_id: id, line, ..Location::default() });
                id
            });
            location_id.insert(0, id);
        }
        profile.sample.push(Sample { location_id, value: vec![*value], label: vec![] });
    }
    profile.string_table = strings.finish();
    profile
}

/// Numbers that look random and are the same every time.
pub(crate) struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        let index = usize::try_from(self.below(all.len() as u64)).expect("less than a length");
        all[index]
    }
}

/// A window of a machine at work: services, and their stacks with nanoseconds on the CPU.
pub(crate) fn machine(
    tick: u64,
    duration_ns: i64,
    dice: &mut Dice,
) -> Vec<(&'static str, Vec<(String, i64)>)> {
    SERVICES
        .iter()
        .map(|&(service, cores, swing, stacks)| {
            let wave = (tick as f64 / 7.0 + cores * 9.0).sin() * swing;
            let noise = dice.below(1000) as f64 / 1000.0 * 0.24 - 0.12;
            let busy = (cores * (1.0 + wave + noise)).max(0.0) * duration_ns as f64;
            let mut all: Vec<(String, i64)> = Vec::new();
            let weights: u64 = stacks.iter().map(|&(_, weight)| weight).sum();
            for &(stack, weight) in stacks {
                let share = busy * weight as f64 / weights as f64;
                let below = dice.below(5) + 1;
                // What a function does is spread over what it calls.
                for child in 0..below {
                    let part = share / below as f64 * (0.6 + dice.below(800) as f64 / 1000.0);
                    let leaf = dice.one_of(LEAVES);
                    let stack = if child == 0 { stack.to_owned() } else { format!("{stack};{leaf}") };
                    all.push((stack, nanoseconds(part)));
                }
            }
            all.retain(|&(_, value)| value > 0);
            (service, all)
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a window's CPU time fits many times over")]
fn nanoseconds(part: f64) -> i64 {
    part as i64
}

const LEAVES: &[&str] = &[
    "__memmove_avx_unaligned_erms@/usr/lib/x86_64-linux-gnu/libc.so.6",
    "malloc@/usr/lib/x86_64-linux-gnu/libc.so.6;_int_malloc@/usr/lib/x86_64-linux-gnu/libc.so.6",
    "cfree@/usr/lib/x86_64-linux-gnu/libc.so.6;_int_free@/usr/lib/x86_64-linux-gnu/libc.so.6",
    "clock_gettime@[vdso]",
    "asm_sysvec_apic_timer_interrupt@[kernel];sysvec_apic_timer_interrupt@[kernel];__irq_exit_rcu@[kernel];handle_softirqs@[kernel]",
    "asm_exc_page_fault@[kernel];exc_page_fault@[kernel];do_user_addr_fault@[kernel];handle_mm_fault@[kernel];__handle_mm_fault@[kernel];do_anonymous_page@[kernel];clear_page_erms@[kernel]",
];

type Workload = (&'static str, f64, f64, &'static [(&'static str, u64)]);

const SERVICES: &[Workload] = &[
    (
        "checkout-api",
        0.62,
        0.35,
        &[
            (
                "_start@/opt/shop/checkout-api;std::rt::lang_start::{{closure}}@/opt/shop/checkout-api;checkout_api::main@/opt/shop/checkout-api;tokio::runtime::runtime::Runtime::block_on::<checkout_api::serve::{{closure}}>@/opt/shop/checkout-api;hyper::proto::h1::dispatch::Dispatcher<D, Bs, I, T>::poll_catch@/opt/shop/checkout-api;checkout_api::routes::cart::update@/opt/shop/checkout-api;serde_json::de::from_slice::<checkout_api::model::Cart>@/opt/shop/checkout-api",
                34,
            ),
            (
                "_start@/opt/shop/checkout-api;std::rt::lang_start::{{closure}}@/opt/shop/checkout-api;checkout_api::main@/opt/shop/checkout-api;tokio::runtime::runtime::Runtime::block_on::<checkout_api::serve::{{closure}}>@/opt/shop/checkout-api;hyper::proto::h1::dispatch::Dispatcher<D, Bs, I, T>::poll_catch@/opt/shop/checkout-api;checkout_api::routes::cart::price@/opt/shop/checkout-api;rust_decimal::ops::mul_impl@/opt/shop/checkout-api",
                18,
            ),
            (
                "_start@/opt/shop/checkout-api;std::rt::lang_start::{{closure}}@/opt/shop/checkout-api;checkout_api::main@/opt/shop/checkout-api;tokio::runtime::runtime::Runtime::block_on::<checkout_api::serve::{{closure}}>@/opt/shop/checkout-api;mio::poll::Poll::poll@/opt/shop/checkout-api;epoll_wait@/usr/lib/x86_64-linux-gnu/libc.so.6;entry_SYSCALL_64_after_hwframe@[kernel];do_syscall_64@[kernel];__x64_sys_epoll_wait@[kernel];do_epoll_wait@[kernel];schedule_hrtimeout_range_clock@[kernel]",
                9,
            ),
            (
                "_start@/opt/shop/checkout-api;std::rt::lang_start::{{closure}}@/opt/shop/checkout-api;checkout_api::main@/opt/shop/checkout-api;tokio::runtime::runtime::Runtime::block_on::<checkout_api::serve::{{closure}}>@/opt/shop/checkout-api;hyper::proto::h1::dispatch::Dispatcher<D, Bs, I, T>::poll_catch@/opt/shop/checkout-api;rustls::conn::ConnectionCommon<T>::process_new_packets@/opt/shop/checkout-api;ring::aead::aes_gcm::open@/opt/shop/checkout-api;aes_gcm_dec_update_vaes_avx2@/opt/shop/checkout-api",
                15,
            ),
        ],
    ),
    (
        "postgresql.service",
        0.31,
        0.2,
        &[
            (
                "_start@/usr/lib/postgresql/15/bin/postgres;main@/usr/lib/postgresql/15/bin/postgres;PostmasterMain@/usr/lib/postgresql/15/bin/postgres;PostgresMain@/usr/lib/postgresql/15/bin/postgres;exec_simple_query@/usr/lib/postgresql/15/bin/postgres;PortalRun@/usr/lib/postgresql/15/bin/postgres;standard_ExecutorRun@/usr/lib/postgresql/15/bin/postgres;ExecSeqScan@/usr/lib/postgresql/15/bin/postgres;heap_getnextslot@/usr/lib/postgresql/15/bin/postgres",
                20,
            ),
            (
                "_start@/usr/lib/postgresql/15/bin/postgres;main@/usr/lib/postgresql/15/bin/postgres;PostmasterMain@/usr/lib/postgresql/15/bin/postgres;PostgresMain@/usr/lib/postgresql/15/bin/postgres;exec_simple_query@/usr/lib/postgresql/15/bin/postgres;pg_plan_queries@/usr/lib/postgresql/15/bin/postgres;standard_planner@/usr/lib/postgresql/15/bin/postgres",
                8,
            ),
            (
                "_start@/usr/lib/postgresql/15/bin/postgres;main@/usr/lib/postgresql/15/bin/postgres;PostmasterMain@/usr/lib/postgresql/15/bin/postgres;PostgresMain@/usr/lib/postgresql/15/bin/postgres;ReadCommand@/usr/lib/postgresql/15/bin/postgres;recv@/usr/lib/x86_64-linux-gnu/libc.so.6;entry_SYSCALL_64_after_hwframe@[kernel];do_syscall_64@[kernel];__sys_recvfrom@[kernel];tcp_recvmsg@[kernel];skb_copy_datagram_iter@[kernel]",
                7,
            ),
        ],
    ),
    (
        "node",
        0.17,
        0.5,
        &[
            ("[no frame pointer];[anonymous code]", 6),
            (
                "node::Start@/usr/bin/node;node::SpinEventLoopInternal@/usr/bin/node;uv_run@/usr/bin/node;uv__io_poll@/usr/bin/node;[anonymous code]",
                9,
            ),
            (
                "node::Start@/usr/bin/node;node::SpinEventLoopInternal@/usr/bin/node;uv_run@/usr/bin/node;v8::internal::Heap::CollectGarbage@/usr/bin/node;v8::internal::MarkCompactCollector::MarkLiveObjects@/usr/bin/node",
                7,
            ),
        ],
    ),
    (
        "nginx.service",
        0.09,
        0.3,
        &[
            (
                "main@/usr/sbin/nginx;ngx_master_process_cycle@/usr/sbin/nginx;ngx_worker_process_cycle@/usr/sbin/nginx;ngx_process_events_and_timers@/usr/sbin/nginx;ngx_http_handler@/usr/sbin/nginx;ngx_http_gzip_body_filter@/usr/sbin/nginx;deflate@/usr/lib/x86_64-linux-gnu/libz.so.1.2.13",
                10,
            ),
            (
                "main@/usr/sbin/nginx;ngx_master_process_cycle@/usr/sbin/nginx;ngx_worker_process_cycle@/usr/sbin/nginx;ngx_process_events_and_timers@/usr/sbin/nginx;writev@/usr/lib/x86_64-linux-gnu/libc.so.6;entry_SYSCALL_64_after_hwframe@[kernel];do_syscall_64@[kernel];do_writev@[kernel];tcp_sendmsg@[kernel];tcp_write_xmit@[kernel];__tcp_transmit_skb@[kernel];ip_queue_xmit@[kernel];__dev_queue_xmit@[kernel]",
                9,
            ),
        ],
    ),
    (
        "kernel",
        0.05,
        0.4,
        &[
            (
                "ret_from_fork_asm@[kernel];ret_from_fork@[kernel];kthread@[kernel];worker_thread@[kernel];process_one_work@[kernel];wb_workfn@[kernel];ext4_writepages@[kernel]",
                5,
            ),
            (
                "ret_from_fork_asm@[kernel];ret_from_fork@[kernel];kthread@[kernel];kswapd@[kernel];balance_pgdat@[kernel];shrink_node@[kernel]",
                2,
            ),
        ],
    ),
    (
        "redis-server.service",
        0.035,
        0.2,
        &[(
            "main@/usr/bin/redis-check-rdb;aeMain@/usr/bin/redis-check-rdb;aeProcessEvents@/usr/bin/redis-check-rdb;readQueryFromClient@/usr/bin/redis-check-rdb;processCommand@/usr/bin/redis-check-rdb;call@/usr/bin/redis-check-rdb;dictFind@/usr/bin/redis-check-rdb",
            4,
        )],
    ),
    (
        "prometheus.service",
        0.028,
        0.6,
        &[
            (
                "runtime.goexit@/usr/bin/prometheus;github.com/prometheus/prometheus/scrape.(*scrapeLoop).run@/usr/bin/prometheus;github.com/prometheus/prometheus/tsdb.(*headAppender).Append@/usr/bin/prometheus;runtime.mallocgc@/usr/bin/prometheus",
                4,
            ),
            (
                "runtime.goexit@/usr/bin/prometheus;runtime.gcBgMarkWorker@/usr/bin/prometheus;runtime.gcDrain@/usr/bin/prometheus;runtime.scanobject@/usr/bin/prometheus",
                3,
            ),
        ],
    ),
    (
        "ssh.service",
        0.004,
        0.9,
        &[(
            "main@/usr/sbin/sshd;server_loop2@/usr/sbin/sshd;chacha20_encrypt_bytes@/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
            2,
        )],
    ),
    (
        "profiler-daemon",
        0.002,
        0.2,
        &[(
            "main@/usr/bin/profiler-daemon;profiler_daemon::capture::read@/usr/bin/profiler-daemon;profiler_daemon::capture::decode::batch@/usr/bin/profiler-daemon",
            2,
        )],
    ),
];
