// Registers with Curator's x-discovery, until it is told to end: Register CONNECT BASE NAME PORT.

import java.util.Map;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.RetryOneTime;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.UriSpec;

public class Register {
    public static class Payload {
        public String zone = "a";
        public Map<String, Object> more = Map.of("deep", Map.of("n", 1));
    }

    public static void main(String[] args) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(args[0], 4_000, 4_000, new RetryOneTime(100));
        client.start();
        var instance = ServiceInstance.<Payload>builder().name(args[2]).address("10.0.0.5").port(Integer.parseInt(args[3]))
            .payload(new Payload()).uriSpec(new UriSpec("{scheme}://{address}:{port}")).build();
        var discovery = ServiceDiscoveryBuilder.builder(Payload.class).client(client).basePath(args[1])
            .thisInstance(instance).build();
        discovery.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                discovery.close();
                client.close();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        Thread.currentThread().join();
    }
}
