import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Runs the statements of a file in a cluster within this process: Sql FILE [OPTION=VALUE...]. The last one is an INSERT. */
public class Sql {
    public static void main(String[] args) throws Exception {
        Map<String, String> options = new HashMap<>();
        Arrays.stream(args).skip(1).map(option -> option.split("=", 2)).forEach(pair -> options.put(pair[0], pair[1]));
        TableEnvironment tables = TableEnvironment.create(EnvironmentSettings.newInstance()
            .inStreamingMode()
            .withConfiguration(Configuration.fromMap(options))
            .build());
        String[] statements = Files.readString(Path.of(args[0])).strip().split(";\\s*");
        for (int i = 0; i < statements.length - 1; i++) {
            tables.executeSql(statements[i]);
        }
        tables.executeSql(statements[statements.length - 1]).await();
    }
}
