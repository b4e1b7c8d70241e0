// The state of the node, then its events, over the Unix socket. usage: java Follow.java DATA_DIR [COUNT]
//
// Java's standard library reads no JSON; the few fields that are needed here are taken out by pattern. A real program
// would use a JSON library.
import java.io.BufferedReader;
import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Follow {
    private final Path directory;
    private long left; // events until the end; negative: none
    private String epoch; // with `after`, where to go on after a lost connection; null before the first
    private long after;

    Follow(Path directory, long count) {
        this.directory = directory;
        this.left = count;
    }

    public static void main(String[] arguments) throws Exception {
        new Follow(Path.of(arguments[0]), arguments.length > 1 ? Long.parseLong(arguments[1]) : -1).run();
    }

    private void run() throws Exception {
        while (true) {
            try {
                follow();
            } catch (IOException error) {
                if (epoch == null) {
                    throw error; // never connected at all
                }
            }
            System.out.println("connection lost");
            Thread.sleep(300);
        }
    }

    /** Makes one connection and stays on it until it ends. */
    private void follow() throws IOException {
        String socket = field(Files.readString(directory.resolve("api.json")), "\"ipc\":\"([^\"]*)\"");
        try (SocketChannel channel = SocketChannel.open(StandardProtocolFamily.UNIX)) {
            channel.connect(UnixDomainSocketAddress.of(socket));
            // A message is one line of JSON, both ways. Calls may be sent without waiting for answers, which come as
            // calls finish: match them by id.
            send(channel, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}");
            String params = epoch == null ? "{}" : "{\"after\":" + after + ",\"epoch\":\"" + epoch + "\"}";
            send(channel, "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"subscribe\",\"params\":" + params + "}");
            BufferedReader lines = new BufferedReader(Channels.newReader(channel, StandardCharsets.UTF_8));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                take(line);
            }
        }
    }

    private static void send(SocketChannel channel, String message) throws IOException {
        ByteBuffer bytes = StandardCharsets.UTF_8.encode(message + "\n");
        while (bytes.hasRemaining()) {
            channel.write(bytes);
        }
    }

    private void take(String message) {
        if (message.contains("\"error\":{\"code\"")) {
            System.out.println(message);
        } else if (message.endsWith("\"id\":1}")) {
            if (epoch == null) {
                System.out.println("state " + field(message, "\"state\":\"([^\"]*)\""));
            }
        } else if (message.endsWith("\"id\":2}")) {
            // Status and peers as they were at event `head` are in the answer, too.
            String current = field(message, "\"epoch\":\"([^\"]*)\"");
            if (!current.equals(epoch)) { // the first, or another run: its numbers begin anew
                epoch = current;
                after = Long.parseLong(field(message, "\"head\":(\\d+)"));
            }
        } else if (message.contains("\"method\":\"event\"")) {
            after = Long.parseLong(field(message, "\"seq\":(\\d+)"));
            System.out.println("event " + after + " " + field(message, "\"type\":\"([^\"]*)\""));
            if (--left == 0) {
                System.exit(0);
            }
        } else if (message.contains("\"method\":\"lagged\"")) {
            System.out.println("missed " + field(message, "\"missed\":(\\d+|null)")); // null: the daemon was restarted
        } // a heartbeat says only that the connection is alive
    }

    private static String field(String json, String pattern) {
        Matcher found = Pattern.compile(pattern).matcher(json);
        if (!found.find()) {
            throw new IllegalArgumentException("no " + pattern + " in " + json);
        }
        return found.group(1);
    }
}
