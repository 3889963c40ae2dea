// PgJdbc.java PORT [CA USER PASSWORD]: what pgjdbc reads through the PostgreSQL wire: metadata, types, NULLs, parameters,
// fetch sizes, COPY; over TLS if CA signs the server's certificate.

import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import org.postgresql.PGConnection;

public class PgJdbc {
    static void same(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) {
            throw new AssertionError(found + " is not " + wanted);
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> found = new ArrayList<>();
        while (rows.next()) {
            found.add(rows.getString(name));
        }
        return found;
    }

    public static void main(String[] args) throws Exception {
        Properties account = new Properties();
        account.setProperty("user", args.length > 1 ? args[2] : "ann");
        if (args.length > 1) {
            account.setProperty("password", args[3]);
            account.setProperty("ssl", "true");
            account.setProperty("sslmode", "verify-full");
            account.setProperty("sslrootcert", args[1]);
        }
        for (String mode : new String[] {"extended", "simple", "extendedForPrepared"}) {
            Properties properties = new Properties();
            properties.putAll(account);
            properties.setProperty("preferQueryMode", mode);
            properties.setProperty("binaryTransfer", "true");
            properties.setProperty("prepareThreshold", "1");
            try (Connection connection = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + args[0] + "/millpond", properties)) {
                rows(connection);
                metadata(connection.getMetaData());
                pages(connection);
                wrong(connection);
            }
        }
        try (Connection connection = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + args[0] + "/millpond", account)) {
            StringWriter text = new StringWriter();
            long count = connection.unwrap(PGConnection.class).getCopyAPI().copyOut("COPY (SELECT n, speed FROM telemetry WHERE n IN (6, 7) ORDER BY n) TO STDOUT (FORMAT csv)", text);
            same(count, 2L);
            same(text.toString(), "6,6.5\n7,\n");
        }
    }

    static void rows(Connection connection) throws SQLException {
        String sql = "SELECT car_id, n, speed, moving, event_time, day, price::decimal(12,2) AS price, tags FROM telemetry WHERE n = ? AND car_id = ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int n = 0; n < 8; n++) {
                statement.setLong(1, n);
                statement.setString(2, String.format("car-%02d", n % 20));
                try (ResultSet row = statement.executeQuery()) {
                    same(row.next(), true);
                    same(row.getLong("n"), (long) n);
                    same(row.getBoolean("moving"), n % 2 == 0);
                    double speed = row.getDouble("speed");
                    same(row.wasNull(), n == 7);
                    same(speed, n == 7 ? 0.0 : n + 0.5);
                    same(row.getObject("event_time", OffsetDateTime.class).toInstant().toString(), "2026-11-20T23:00:0" + n + ".250Z");
                    same(row.getDate("day").toString(), "2026-11-2" + n % 3);
                    same(row.getBigDecimal("price"), new BigDecimal(n + ".10"));
                    same(Arrays.asList((Object[]) row.getArray("tags").getArray()), Arrays.asList("a", "b,c", null));
                    same(row.next(), false);
                }
            }
        }
    }

    static void metadata(DatabaseMetaData meta) throws SQLException {
        same(meta.getDatabaseProductName(), "PostgreSQL");
        List<String> tables = column(meta.getTables(null, "public", "%", new String[] {"TABLE", "VIEW"}), "TABLE_NAME");
        same(tables, List.of("car_state", "telemetry", "moving"));
        List<String> columns = new ArrayList<>();
        try (ResultSet rows = meta.getColumns(null, "public", "telemetry", "%")) {
            while (rows.next()) {
                columns.add(rows.getString("COLUMN_NAME"));
                if (rows.getString("COLUMN_NAME").equals("speed")) {
                    same(rows.getInt("DATA_TYPE"), Types.DOUBLE);
                    same(rows.getString("REMARKS"), "km/h; NULL while parked");
                }
            }
        }
        same(columns.subList(0, 3), List.of("car_id", "event_time", "speed"));
        same(column(meta.getPrimaryKeys(null, "public", "car_state"), "COLUMN_NAME"), List.of("car_id"));
        same(column(meta.getImportedKeys(null, "public", "car_state"), "FKCOLUMN_NAME"), List.of());
        same(column(meta.getSchemas(), "TABLE_SCHEM").contains("system"), true);
        same(column(meta.getCatalogs(), "TABLE_CAT"), List.of("millpond"));
        meta.getTypeInfo().close();
        meta.getIndexInfo(null, "public", "car_state", false, true).close();
    }

    static void pages(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(7);
            long sum = 0;
            try (ResultSet rows = statement.executeQuery("SELECT n FROM telemetry ORDER BY n")) {
                while (rows.next()) {
                    sum += rows.getLong(1);
                }
            }
            same(sum, 199L * 200 / 2);
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    static void wrong(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.executeQuery("SELECT * FROM nope");
            throw new AssertionError("a table that is not there was read");
        } catch (SQLException error) {
            same(error.getSQLState(), "42P01");
        }
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("DELETE FROM telemetry");
            throw new AssertionError("rows were deleted");
        } catch (SQLException error) {
            same(error.getSQLState(), "42501");
        }
    }
}
