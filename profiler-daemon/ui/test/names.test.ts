// Names and numbers as people say them: packages of functions, units of types.

import assert from "node:assert/strict";
import { test } from "node:test";
import { amount, changed, clock, isLevel, nounOf, percent, signed, typeName, unitOf } from "../src/format.js";
import { longest, shorter } from "../src/names.js";
import { packageOf } from "../src/packages.js";

function check(name: string, expected: string, file = ""): void {
  assert.equal(packageOf(name, file, "/usr/bin/prog"), expected, name);
}

test("Rust and C++ say their crate or namespace first", () => {
  check("tokio::runtime::park::Inner::park", "tokio");
  check("<hyper::server::Conn<T> as core::future::Future>::poll", "hyper");
  check("<&mut serde_json::de::Deserializer<R> as serde::Deserializer>::x", "serde_json");
  check("<[T] as core::slice::Sort>::sort", "core");
  check("std::vector<int>::push_back(int&&)", "std");
});

test("Go says the path of its package", () => {
  check("github.com/gin-gonic/gin.(*Engine).ServeHTTP", "github.com/gin-gonic/gin");
  check("gopkg.in/yaml%2ev3.Unmarshal", "gopkg.in/yaml.v3");
  check("runtime.mallocgc", "runtime");
  check("net/http.(*conn).serve", "net/http");
});

test("Java, Python and node say it in name or file", () => {
  check("java/util/HashMap.put", "java.util");
  check("org.apache.kafka.Log.append", "org.apache.kafka");
  check("render", "django", "/usr/lib/python3/dist-packages/django/template.py");
  check("handle", "@scope/web", "/app/node_modules/@scope/web/lib/index.js");
});

test("what says nothing belongs to the file it runs from", () => {
  check("main", "prog");
  check("deflate_fast.part.0", "prog");
  check("do_work.cold", "prog");
  check("", "prog");
});

test("numbers carry the unit of their type", () => {
  const types: [string, number, string][] = [
    ["process_cpu:cpu:nanoseconds:cpu:nanoseconds", 1.5e9, "1.50 s "],
    ["memory:inuse_space:bytes:space:bytes", 3 << 20, "3.00 MiB "],
    ["memory:alloc_objects:count:space:bytes", 12, "12 objects"],
    ["goroutines:goroutine:count:goroutine:count", 7.5, "7.50 goroutines"],
    ["mutex:contentions:count:contentions:count", 20_000, "20.0 k contentions"],
  ];
  for (const [type, value, said] of types) assert.equal(`${amount(value, unitOf(type))} ${nounOf(type)}`, said);
  assert.ok(isLevel("memory:inuse_space:bytes:space:bytes") && isLevel("goroutines:goroutine:count:goroutine:count"));
  assert.ok(!isLevel("memory:alloc_space:bytes:space:bytes"));
  assert.equal(typeName("memory:inuse_space:bytes:space:bytes"), "Memory in use");
  assert.equal(typeName("odd:kind:parsecs:a:b"), "odd: kind (parsecs)");
});

test("a change is said as people say it", () => {
  const cases: [number, number, string | null][] = [
    [112, 100, "12 % more than before"],
    [88, 100, "12 % less than before"],
    [100.3, 100, "as much as before"],
    [320, 100, "3.2 times as much as before"],
    [5, 0, null],
  ];
  for (const [now, before, said] of cases) assert.equal(changed(now, before), said);
});

test("a time of day is that of this place", () => {
  const at = new Date(2026, 10, 27, 9, 5, 7).getTime();
  assert.deepEqual([clock(at), clock(at, false)], ["09:05:07", "09:05"]);
});

test("shares are never said to be more than they are", () => {
  assert.equal(percent(1, 0), "0 %");
  assert.equal(percent(1, 1e9), "< 0.01 %");
  assert.equal(signed(-0.123), "−12.3 points");
  assert.equal(signed(0.00001), "unchanged");
});

test("a long name is shortened where it says least", () => {
  const short = (name: string, room: number, said: string) => assert.equal(longest(shorter(name), room), said, name);
  short("<std::sys::thread::unix::Thread>::new::thread_start", 50, "std::sys::thread::unix::Thread::new::thread_start");
  short("<std::sys::thread::unix::Thread>::new::thread_start", 20, "new::thread_start");
  short("<alloc::boxed::Box<dyn FnOnce(u8) -> u8> as FnOnce<u8>>::call_once", 40, "alloc::boxed::Box::call_once");
  short("<rustc::Interners>::intern_ty", 21, "Interners::intern_ty");
  short("llvm::FPPassManager::runOnFunction(llvm::Function&)", 30, "FPPassManager::runOnFunction");
  short("(anonymous namespace)::Walker::walk(int) const [clone .cold]", 12, "Walker::walk");
  short("app::run::<app::Config>::{closure#1}", 30, "app::run::{closure#1}");
  short("operator<", 3, "operator<");
  short("std::operator<<char>", 10, "operator<<char>");
  short("main", 1, "main");
});
