import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;

/** The API under Tomcat. Arguments: a directory for its work, and a port of 127.0.0.1 or the path of a Unix socket. */
final class Tomcat {
    public static void main(String[] args) throws Exception {
        var tomcat = new org.apache.catalina.startup.Tomcat();
        tomcat.setBaseDir(args[0]);
        var connector = new org.apache.catalina.connector.Connector("HTTP/1.1");
        if (args[1].matches("\\d+")) {
            connector.setProperty("address", "127.0.0.1");
            connector.setPort(Integer.parseInt(args[1]));
        } else {
            connector.setProperty("unixDomainSocketPath", args[1]);
        }
        connector.setProperty("maxKeepAliveRequests", "-1");
        connector.setProperty("keepAliveTimeout", "75000");
        tomcat.setConnector(connector);
        var context = tomcat.addContext("", args[0]);
        var api = org.apache.catalina.startup.Tomcat.addServlet(context, "api", new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
                String path = request.getServletPath();
                Api.handle(request.getMethod(), path, request.getInputStream(), (status, length) -> {
                    response.setStatus(status);
                    if (length != null && length != Api.UNKNOWN) {
                        response.setContentLength(length);
                    }
                    return response.getOutputStream();
                });
            }
        });
        api.addMapping("/");
        tomcat.start();
        tomcat.getServer().await();
    }
}
