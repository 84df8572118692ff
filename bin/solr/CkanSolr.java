import java.net.*;
import java.nio.file.*;
import java.util.*;
import javax.servlet.*;
import org.apache.solr.core.CoreContainer;
import org.apache.solr.servlet.*;
import org.eclipse.jetty.server.*;
import org.eclipse.jetty.servlet.*;

/** A Solr 9 server with no Solr distribution: java -cp 'lib/*' CkanSolr.java HOME PORT [HOST] */
public class CkanSolr {
  public static void main(String[] a) throws Exception {
    Path home = Paths.get(a[0]).toAbsolutePath();
    int port = Integer.parseInt(a[1]);
    String host = a.length > 2 ? a[2] : "127.0.0.1";
    System.setProperty("solr.solr.home", home.toString());
    System.setProperty("solr.install.dir", home.toString());
    System.setProperty("jetty.port", a[1]);
    System.setProperty("solr.log.dir", System.getProperty("solr.log.dir", home.resolve("logs").toString()));
    Server server = new Server();
    HttpConfiguration hc = new HttpConfiguration();
    hc.setRequestHeaderSize(65536); hc.setSendServerVersion(false);
    ServerConnector c = new ServerConnector(server, new HttpConnectionFactory(hc));
    c.setHost(host); c.setPort(port); server.addConnector(c);
    ServletContextHandler root = new ServletContextHandler(server, "/solr", ServletContextHandler.NO_SESSIONS);
    root.addEventListener(new CoreContainerProvider() {
      @Override public void contextInitialized(ServletContextEvent e) {
        Properties p = new Properties(); p.setProperty("hostPort", a[1]);
        e.getServletContext().setAttribute(SolrDispatchFilter.PROPERTIES_ATTRIBUTE, p);
        e.getServletContext().setAttribute(SolrDispatchFilter.SOLRHOME_ATTRIBUTE, home.toString());
        super.contextInitialized(e);
      }
      // A Solr that could not start would stay, and answer 500 to everything.
      @Override protected CoreContainer createCoreContainer(Path home, Properties p) {
        try {
          return super.createCoreContainer(home, p);
        } catch (RuntimeException x) {
          System.err.println("Solr could not start: " + x + ", " + x.getCause());
          Runtime.getRuntime().halt(1);
          throw x;
        }
      }});
    root.addFilter(SolrDispatchFilter.class, "/*", EnumSet.of(DispatcherType.REQUEST));
    root.addServlet(DefaultServlet.class, "/");
    server.setStopAtShutdown(true);
    server.start();
    System.out.println("solr up on http://" + host + ":" + port + "/solr");
    server.join();
  }
}
