import com.sun.net.httpserver.HttpServer;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/** The API under the JDK's own server, on the port of 127.0.0.1 that is its argument. */
final class Jdk {
    /** What the server takes for a response without a body, and for one of unknown length. */
    private static final int NO_BODY = -1, CHUNKED = 0;

    public static void main(String[] args) throws Exception {
        var address = new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(args[0]));
        HttpServer server = HttpServer.create(address, 0);
        server.createContext("/", exchange -> {
            String method = exchange.getRequestMethod();
            Api.handle(method, exchange.getRequestURI().getPath(), exchange.getRequestBody(), (status, length) -> {
                if (length == null || length == 0 || method.equals("HEAD")) {
                    exchange.sendResponseHeaders(status, NO_BODY);
                    return OutputStream.nullOutputStream();
                }
                exchange.sendResponseHeaders(status, length == Api.UNKNOWN ? CHUNKED : length);
                return exchange.getResponseBody();
            });
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
    }
}
