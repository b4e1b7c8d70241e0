/** The version of this package, which is the daemon's. */
export const VERSION = "0.2.0";
