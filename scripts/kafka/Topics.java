import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.errors.TopicExistsException;

/** Makes the topics that are missing: Topics BROKERS NAME:PARTITIONS... Waits up to 60 s for the broker. */
public class Topics {
    public static void main(String[] args) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", args[0], "default.api.timeout.ms", "60000");
        try (Admin admin = Admin.create(config)) {
            List<NewTopic> topics = new ArrayList<>();
            for (int i = 1; i < args.length; i++) {
                int colon = args[i].lastIndexOf(':');
                int partitions = Integer.parseInt(args[i].substring(colon + 1));
                topics.add(new NewTopic(args[i].substring(0, colon), partitions, (short) 1));
            }
            for (var made : admin.createTopics(topics).values().values()) {
                try {
                    made.get();
                } catch (ExecutionException e) {
                    if (!(e.getCause() instanceof TopicExistsException)) throw e;
                }
            }
        }
    }
}
