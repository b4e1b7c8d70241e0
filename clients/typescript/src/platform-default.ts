/** The platform of this build. In `dist/browser` the file `platform-default.browser.ts` stands in its place. */
export { node as platform } from "./node/platform.js";
