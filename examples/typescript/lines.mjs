// A stream as lines of JSON, none longer than a megabyte: what a peer sends is not to be trusted.
const LONGEST = 1 << 20;

export async function* messages(stream) {
  const decoder = new TextDecoder();
  let text = "";
  // `read`, since leaving a loop over the stream itself would reset it
  for (let bytes = await stream.read(); bytes !== null; bytes = await stream.read()) {
    text += decoder.decode(bytes, { stream: true });
    const lines = text.split("\n");
    text = lines.pop();
    if (text.length > LONGEST) throw new Error("a message is too long");
    for (const line of lines) yield JSON.parse(line);
  }
}

export const send = (stream, message) => stream.write(JSON.stringify(message) + "\n");
