import { expect, test, vi } from 'vitest';
import { bearerProtocol, beyond, whyClosed } from './console-link';
import { apply, backoff, fromList, Lines } from './changes';
import type { KubeObject } from './objects';
import { machines, nodes, pathOf } from './resources';
import { whoAmI } from './session';

const object = (name: string, version: string): KubeObject => ({ metadata: { name, namespace: 'a', resourceVersion: version } });

test('changes make a new map, and nothing makes none', () => {
  const before = fromList([object('x', '1'), object('y', '2')]);
  const after = apply(before, [
    { type: 'MODIFIED', object: object('x', '3') },
    { type: 'DELETED', object: object('y', '4') },
    { type: 'ADDED', object: object('z', '5') },
  ]);
  expect([...after.keys()]).toEqual(['a/x', 'a/z']);
  expect(after.get('a/x')?.metadata.resourceVersion).toBe('3');
  expect(before.size).toBe(2);
  expect(apply(before, [{ type: 'BOOKMARK', object: object('', '9') }])).toBe(before);
});

test('lines that come in pieces are whole', () => {
  const lines = new Lines();
  expect(lines.push('{"a"')).toEqual([]);
  expect(lines.push(':1}\n{"b":2}\n\n{"c')).toEqual(['{"a":1}', '{"b":2}']);
  expect(lines.push('":3}\n')).toEqual(['{"c":3}']);
});

test('tries become rarer, up to ten seconds', () => {
  expect([backoff(0), backoff(1), backoff(20)]).toEqual([250, 500, 10_000]);
});

test('what is in a name cannot break out of an address', () => {
  expect(pathOf(machines, 'a', '../x?y')).toBe('/apis/whimbrel.dev/v1/namespaces/a/virtualmachines/..%2Fx%3Fy');
  expect(pathOf(nodes, undefined, 'n')).toBe('/api/v1/nodes/n');
  expect(pathOf(machines)).toBe('/apis/whimbrel.dev/v1/virtualmachines');
});

test('a token goes with a WebSocket as Kubernetes reads it', () => {
  expect(bearerProtocol('a?~>')).toBe('base64url.bearer.authorization.k8s.io.YT9-Pg');
  expect(bearerProtocol('ä')).toBe('base64url.bearer.authorization.k8s.io.w6Q');
  expect([whyClosed(1000, 'the VMM has ended'), whyClosed(1006, '')]).toEqual(['the VMM has ended', 'the connection was refused or broke']);
});

test('what a log and a connection both have is shown once', () => {
  const bytes = (text: string) => new TextEncoder().encode(text);
  const rest = (before: string, now: string) => new TextDecoder().decode(beyond(bytes(before), bytes(now)));
  expect([rest('login: ', 'in: root'), rest('', 'abc'), rest('abc', ''), rest('abc', 'abc'), rest('abcabcabcab', 'abcabcabd'), rest('abcabdabca', 'abcabcc')]).toEqual(['root', 'abc', '', '', 'd', 'bcc']);
});

test('a line end that the guest writes twice is shown twice', () => {
  const bytes = (text: string) => new TextEncoder().encode(text);
  expect(new TextDecoder().decode(beyond(bytes('done\n'), bytes('\nnext')))).toBe('\nnext');
});

test('where a log and a connection meet is found without going through both again and again', () => {
  const many = new Uint8Array(65_536).fill(65);
  const other = many.slice();
  other[32_768] = 66;
  let looks = 0;
  const counted = new Proxy(other, {
    get: (all, name) => {
      if (typeof name === 'string' && /^\d+$/.test(name)) looks++;
      const value: unknown = Reflect.get(all, name);
      return typeof value === 'function' ? (value as () => unknown).bind(all) : value;
    },
  });
  expect(beyond(many, counted)).toHaveLength(32_768);
  expect(looks).toBeLessThan(20 * other.length);
});

test('a server that cannot say who somebody is says so in two ways, and neither is an obstacle', async () => {
  const reply = (code: number) => vi.stubGlobal('fetch', () => Promise.resolve(new Response(JSON.stringify({ code, message: 'no' }), { status: code })));
  for (const code of [403, 404]) {
    reply(code);
    expect(await whoAmI('token')).toBe('unknown');
  }
  reply(401);
  await expect(whoAmI('token')).rejects.toThrow('no');
  vi.unstubAllGlobals();
});
