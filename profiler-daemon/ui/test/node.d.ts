// The little of node that the tests use.
declare module "node:test" {
  export function test(name: string, run: () => void | Promise<void>): void;
}
declare module "node:assert/strict" {
  const assert: {
    equal(found: unknown, expected: unknown, why?: string): void;
    deepEqual(found: unknown, expected: unknown, why?: string): void;
    ok(value: unknown, why?: string): void;
    match(text: string, pattern: RegExp): void;
  };
  export default assert;
}
