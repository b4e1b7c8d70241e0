// Builds dist/: `esm`, `cjs` and `browser` from the one source. `browser` is `esm` with the platform of browsers in the
// place of Node's, so that a page can import it as it is, with no bundler.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, "dist");

/** Compile all of src/; `rename` and `rewrite` change the names and texts of what is written. */
function compile(overrides, rename = (name) => name, rewrite = (text) => text) {
  const config = ts.getParsedCommandLineOfConfigFile(join(root, "tsconfig.json"), overrides, {
    ...ts.sys,
    onUnRecoverableConfigFileDiagnostic: (diagnostic) => fail([diagnostic]),
  });
  const program = ts.createProgram(config.fileNames, config.options);
  const { diagnostics } = program.emit(undefined, (name, text) => {
    const target = rename(name);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, rewrite(text));
  });
  fail([...ts.getPreEmitDiagnostics(program), ...diagnostics]);
}

function fail(diagnostics) {
  if (diagnostics.length === 0) return;
  console.error(ts.formatDiagnostics(diagnostics, {
    getCurrentDirectory: () => root, getCanonicalFileName: (name) => name, getNewLine: () => "\n",
  }));
  process.exit(1);
}

rmSync(dist, { recursive: true, force: true });
compile({});
compile(
  {
    outDir: join(dist, "cjs"),
    module: ts.ModuleKind.CommonJS,
    moduleResolution: ts.ModuleResolutionKind.Node10,
    verbatimModuleSyntax: false,
  },
  (name) => name.replace(/(\.d)?\.ts$/, "$1.cts").replace(/\.js$/, ".cjs"),
  (text) => text.replace(/((?:from |import\(|require\()["']\.{1,2}\/[^"']+)\.js(["'])/g, "$1.cjs$2"),
);

// The types are those of `esm`: there is one vocabulary.
const browser = join(dist, "browser");
cpSync(join(dist, "esm"), browser, {
  recursive: true,
  filter: (path) => !path.endsWith(".d.ts") && !path.startsWith(join(dist, "esm", "node")),
});
writeFileSync(join(browser, "platform-default.js"), readFileSync(join(browser, "platform-default.browser.js")));
rmSync(join(browser, "platform-default.browser.js"));
