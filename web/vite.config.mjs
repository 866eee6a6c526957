// Builds one file that the program embeds: src/ui/page.html.
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { defineConfig } from "vite";

const MOST_BYTES = 300_000; // of the page, compressed

const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** Puts script and style into the page, and lets the page run nothing else. */
const oneFile = () => ({
  name: "one-file",
  enforce: "post",
  generateBundle(_, bundle) {
    const parts = Object.values(bundle);
    const text = (kind) =>
      parts
        .filter((part) => part.fileName.endsWith(kind))
        .map((part) => (part.type === "chunk" ? part.code : String(part.source)).trim())
        .join("\n");
    const script = text(".js").replaceAll("</script", "<\\/script");
    const style = text(".css");
    const policy = [
      "default-src 'none'",
      "connect-src 'self'",
      "img-src data: blob:",
      `script-src ${hash(script)}`,
      `style-src ${hash(style)}`,
      "base-uri 'none'",
      "form-action 'none'",
    ].join("; ");
    const source = String(parts.find((part) => part.fileName === "index.html").source);
    const page = source
      .replace(/\s*<script[^>]*><\/script>/g, "")
      .replace(/\s*<link rel="stylesheet"[^>]*>/g, "")
      .replace("<!-- policy -->", () => `<meta http-equiv="Content-Security-Policy" content="${policy}">`)
      .replace("<!-- style -->", () => `<style>${style}</style>`)
      .replace("<!-- script -->", () => `<script type="module">${script}</script>`);
    const bytes = gzipSync(page).length;
    if (bytes > MOST_BYTES) this.error(`the page has ${bytes} bytes compressed, ${MOST_BYTES} are allowed`);
    writeFileSync(new URL("../src/ui/page.html", import.meta.url), page);
    this.info(`src/ui/page.html: ${page.length} bytes, ${bytes} compressed`);
  },
});

// As if the page came from there: it takes moves from no other origin.
const target = "http://127.0.0.1:8700";

export default defineConfig({
  base: "./",
  build: { cssCodeSplit: false, modulePreload: false, target: "es2022" },
  plugins: [oneFile()],
  server: { proxy: { "/api": { target, changeOrigin: true, headers: { origin: target } } } },
});
