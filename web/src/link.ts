// A session in the address: compressed JSON behind `#s=`.

import type { Link } from "./wire";

async function through(bytes: Uint8Array, by: GenericTransformStream): Promise<Uint8Array> {
  const stream = new Blob([bytes as BlobPart]).stream().pipeThrough(by as ReadableWritablePair);
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function write(link: Link): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify(link));
  const packed = await through(bytes, new CompressionStream("deflate-raw"));
  let text = "";
  for (const byte of packed) text += String.fromCharCode(byte);
  return `s=${btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/** The session of an address; `null` where there is none. */
export async function read(hash: string): Promise<Link | null> {
  const packed = /^#s=([\w-]+)$/.exec(hash)?.[1];
  if (!packed) return null;
  const text = atob(packed.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
  const plain = await through(bytes, new DecompressionStream("deflate-raw"));
  return JSON.parse(new TextDecoder().decode(plain)) as Link;
}
