import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;

/** The matrix's API, for the servers in Java. */
final class Api {
    /** How a server sends. */
    interface Response {
        /** The head. Bodies without a length are sent piece by piece; a length of null is no body at all. */
        OutputStream head(int status, Integer length) throws IOException;
    }

    static final Integer UNKNOWN = -1;

    /** Reads like HTTP, so that whoever looks for messages inside bodies finds some. */
    private static final byte[] FILLER = bytes(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n");
    private static final int[] CHUNKS = {1, 7, 1000, 16384, 40000};

    static void handle(String method, String path, InputStream in, Response response) throws IOException {
        String[] parts = path.substring(1).split("/");
        int number = parts.length > 1 && parts[1].matches("\\d+") ? Integer.parseInt(parts[1]) : 0;
        switch (method + " " + parts[0]) {
            case "GET blob" -> send(response, 200, filler(number));
            case "HEAD blob" -> response.head(200, number);
            case "GET chunked" -> stream(response.head(200, UNKNOWN), number);
            case "GET status" -> {
                if (number == 204 || number == 304) {
                    response.head(number, null);
                } else {
                    send(response, number, bytes("as you wish\n"));
                }
            }
            case "GET slow" -> {
                sleep(number);
                send(response, 200, bytes("slept\n"));
            }
            case "DELETE items" -> response.head(204, null);
            case "POST upload" -> {
                long received = in.transferTo(OutputStream.nullOutputStream());
                send(response, 200, bytes("{\"received\":" + received + "}"));
            }
            default -> send(response, 404, bytes("nothing here\n"));
        }
    }

    private static void send(Response response, int status, byte[] body) throws IOException {
        response.head(status, body.length).write(body);
    }

    private static void stream(OutputStream out, int length) throws IOException {
        for (int turn = 0; length > 0; turn++) {
            int size = Math.min(CHUNKS[turn % CHUNKS.length], length);
            out.write(filler(size));
            out.flush();
            length -= size;
        }
    }

    private static byte[] filler(int length) {
        byte[] body = new byte[length];
        for (int at = 0; at < length; at++) {
            body[at] = FILLER[at % FILLER.length];
        }
        return body;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.ISO_8859_1);
    }

    private static void sleep(int ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}
