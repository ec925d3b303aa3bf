// Addresses: what was chosen survives being written and read, and becomes conditions for the server.

import assert from "node:assert/strict";
import { test } from "node:test";
import { read, selector, type Filter } from "../src/selector.js";
import { matcher, parse, whose, write } from "../src/state.js";

/** An address says the same after it was read. */
function check(hash: string, expected = hash): void {
  assert.equal(write(parse(hash)), expected);
}

test("what is usual is left out of an address", () => {
  check("#");
  check("#last=900&view=calls&color=module&group=service_name", "#");
});

test("all that was chosen is in the address", () => {
  check("#group=host&service=web+%26+db&where=comm%21%7E%5Ea&where=host%3Done&last=60&from=1&until=9&since=2&to=5&base-since=1&base-to=2&against=b&type=a%3Ab%3Ac%3Ad%3Ae&q=x&color=package&view=inverted&hide=malloc&hide=%2F%5Etokio%2F&only=main&zoom=a1.b2");
  check("#view=sandwich&function=malloc");
});

test("what makes no sense is as if it were not there", () => {
  check("#from=9&until=1&since=1&to=2&last=-4&view=sandwich&color=red&zoom=%2F..&where=host", "#");
  check("#since=1&to=2&base-since=1&base-to=2", "#");
  check("#last=9999999", "#last=86400");
});

test("conditions and the chosen service are one selector", () => {
  const state = { ...parse("#where=host%3D~web-.*"), service: 'a"b' };
  assert.equal(whose(state), '{host=~"web-.*",service_name="a\\"b"}');
  assert.equal(whose(parse("#")), null);
});

test("names and values are quoted where they need it", () => {
  const filter = (name: string, value: string): Filter => ({ name, operator: "=", value });
  assert.equal(selector([filter("a.b", "x\\y\n"), filter("my label", "")]), '{a.b="x\\\\y\\n","my label"=""}');
  assert.deepEqual(read("a!~b=c"), { name: "a", operator: "!~", value: "b=c" });
  assert.equal(read("{a}=b"), null);
});

test("a search is part of a name in any case, or an expression", () => {
  assert.ok(matcher("LEA")!("my_leaf"));
  assert.ok(!matcher("/^lea$/")!("leaf"));
  assert.ok(matcher("/(/")!("a/(/b"), "not finished: by the letter");
  assert.equal(matcher("  "), null);
});
