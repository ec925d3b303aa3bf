// Makes the three files that the daemon embeds. The same sources make the same bytes: nothing of the machine is in them.
import { copyFile, mkdir } from "node:fs/promises";
import { build } from "esbuild";

await mkdir("dist", { recursive: true });
await build({
  entryPoints: { app: "src/main.ts" },
  outdir: "dist",
  // Chromium then compiles the script as it comes, beside the main thread, which had to compile each function at its first call.
  banner: { js: "//# allFunctionsCalledOnLoad" },
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022"],
  legalComments: "none",
  charset: "utf8",
});
await build({
  entryPoints: { app: "src/app.css" },
  outdir: "dist",
  minify: true,
  // The browsers that know light-dark(): nothing older is drawn half.
  target: ["chrome123", "firefox120", "safari17.5"],
  charset: "utf8",
});
await copyFile("src/index.html", "dist/index.html");
