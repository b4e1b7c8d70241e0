/** The SDK's configuration of a node. */
import { InvalidConfig, record } from "./errors.js";

/** The SDK's configuration; what it leaves out comes from the daemon's own. */
export interface P2PConfig {
  bootstrapNodes?: readonly string[] | undefined;
  listenAddresses?: readonly string[] | undefined;
  enableDHT?: boolean | undefined;
  enableMDNS?: boolean | undefined;
  dialTimeout?: number | undefined;
  requestTimeout?: number | undefined;
  maxRetries?: number | undefined;
  retryDelay?: number | undefined;
}

const KINDS: Readonly<Record<keyof P2PConfig, "strings" | "boolean" | "number">> = {
  bootstrapNodes: "strings", listenAddresses: "strings", enableDHT: "boolean", enableMDNS: "boolean",
  dialTimeout: "number", requestTimeout: "number", maxRetries: "number", retryDelay: "number",
};

/** A frozen copy of what is given. Throws `InvalidConfig`. */
export function checkedConfig(config: P2PConfig): Readonly<P2PConfig> {
  const copy: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(record(config))) {
    if (value === undefined) continue;
    const kind = KINDS[name as keyof P2PConfig];
    if (kind === undefined) throw new InvalidConfig(`unknown key ${name}; known: ${Object.keys(KINDS).join(", ")}`, name);
    if (kind === "strings") {
      if (!Array.isArray(value) || value.some((one) => typeof one !== "string")) {
        throw new InvalidConfig(`${name} must be an array of strings`, name);
      }
      copy[name] = Object.freeze([...value]);
    } else {
      if (typeof value !== kind) throw new InvalidConfig(`${name} must be a ${kind}`, name);
      copy[name] = value;
    }
  }
  return Object.freeze(copy);
}
