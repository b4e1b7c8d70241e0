/** The platform of the build for browsers. */
export { browser as platform } from "./browser/platform.js";
