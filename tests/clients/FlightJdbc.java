// FlightJdbc.java PORT [CA USER PASSWORD]: what the Arrow Flight JDBC driver reads through Flight SQL: types, NULLs, parameters,
// metadata, errors, a large result; over TLS with an account if CA signs the server's certificate.

import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Calendar;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import java.util.TimeZone;

public class FlightJdbc {
    static void same(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) {
            throw new AssertionError(found + " is not " + wanted);
        }
    }

    static void contains(String text, String wanted) {
        if (text == null || !text.contains(wanted)) {
            throw new AssertionError("no " + wanted + " in " + text);
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> found = new ArrayList<>();
        try (rows) {
            while (rows.next()) {
                found.add(rows.getString(name));
            }
        }
        return found;
    }

    /** A connection with the account of the arguments, or that of `account`: user and password. */
    static Connection connect(String[] args, String more, String... account) throws SQLException {
        String url = "jdbc:arrow-flight-sql://127.0.0.1:" + args[0] + "/?useEncryption=" + (args.length > 1) + more;
        Properties properties = new Properties();
        if (args.length > 1) {
            properties.setProperty("useSystemTrustStore", "false");
            properties.setProperty("tlsRootCerts", args[1]);
            String[] shown = account.length == 0 ? new String[] {args[2], args[3]} : account;
            properties.setProperty("user", shown[0]);
            properties.setProperty("password", shown[1]);
        }
        return DriverManager.getConnection(url, properties);
    }

    public static void main(String[] args) throws Exception {
        try (Connection connection = connect(args, "")) {
            rows(connection);
            types(connection);
            parameters(connection);
            metadata(connection.getMetaData());
            wrong(connection);
            large(connection);
            same(connection.isValid(5), true);
        }
        catalog(args);
        if (args.length > 1) {
            refused(args);
        }
        typesFollowFromThePlace(args);
    }

    static void rows(Connection connection) throws SQLException {
        String sql = "SELECT car_id, n, speed, moving, event_time, day, price::decimal(12,2) AS price, tags FROM telemetry WHERE n = ? AND car_id = ?";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            same(statement.getParameterMetaData().getParameterCount(), 2);
            same(statement.getParameterMetaData().getParameterType(1), Types.BIGINT);
            same(statement.getMetaData().getColumnCount(), 8);
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
                    same(row.getTimestamp("event_time").toInstant(), Instant.parse("2026-11-20T23:00:0" + n + ".250Z"));
                    same(row.getDate("day").toString(), "2026-11-2" + n % 3);
                    same(row.getBigDecimal("price"), new BigDecimal(n + ".10"));
                    same(Arrays.toString((Object[]) row.getArray("tags").getArray()), "[a, b,c, null]");
                    same(row.next(), false);
                }
            }
        }
    }

    record Value(String sql, int type, Object wanted) {}

    static void types(Connection connection) throws SQLException {
        List<Value> values = List.of(
                new Value("9223372036854775807", Types.BIGINT, Long.MAX_VALUE),
                new Value("2::int", Types.INTEGER, 2),
                new Value("3::smallint", Types.SMALLINT, (short) 3),
                new Value("1e300::double", Types.DOUBLE, 1e300),
                new Value("1.5::real", Types.FLOAT, 1.5),
                new Value("-12.34::decimal(12,2)", Types.DECIMAL, new BigDecimal("-12.34")),
                new Value("arrow_cast(1.5, 'Decimal256(50, 3)')", Types.DECIMAL, new BigDecimal("1.500")),
                new Value("arrow_cast(7, 'UInt64')", Types.BIGINT, 7L),
                new Value("true", Types.BOOLEAN, true),
                new Value("'서울'", Types.VARCHAR, "서울"),
                new Value("''", Types.VARCHAR, ""),
                new Value("arrow_cast('z', 'Utf8View')", Types.VARCHAR, "z"),
                new Value("arrow_cast('z', 'LargeUtf8')", Types.VARCHAR, "z"),
                new Value("arrow_cast('z', 'Dictionary(Int32, Utf8)')", Types.VARCHAR, "z"),
                new Value("DATE '2026-02-28'", Types.DATE, Date.valueOf("2026-02-28")),
                new Value("DATE '1969-12-31'", Types.DATE, Date.valueOf("1969-12-31")),
                new Value("arrow_cast('ab', 'Binary')", Types.VARBINARY, "ab"),
                new Value("arrow_cast('ab', 'BinaryView')", Types.VARBINARY, "ab"),
                new Value("make_array(1, 2, NULL)", Types.ARRAY, "[1,2,null]"),
                new Value("make_array(make_array('a'))", Types.ARRAY, "[[\"a\"]]"),
                new Value("named_struct('a', 1, 'b', 'x')", Types.JAVA_OBJECT, "{\"a\":1,\"b\":\"x\"}"),
                new Value("MAP {'k': 1}", Types.JAVA_OBJECT, "{\"k\":1}"),
                new Value("INTERVAL '1 month 2 days'", Types.JAVA_OBJECT, "P1M2D PT0S"));
        for (Value value : values) {
            try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery("SELECT " + value.sql() + " AS x")) {
                same(row.getMetaData().getColumnLabel(1), "x");
                same(row.next(), true);
                Object found = row.getObject(1);
                if (found instanceof byte[] bytes) {
                    found = new String(bytes, StandardCharsets.UTF_8);
                }
                boolean shown = value.type() == Types.ARRAY || value.type() == Types.JAVA_OBJECT;
                same(value.sql() + " " + row.getMetaData().getColumnType(1), value.sql() + " " + value.type());
                same(shown ? found.toString() : found, value.wanted());
                same(row.wasNull(), false);
            }
        }
        // A timestamp with a time zone has no getObject(int) in 18.3.0 (an error of the driver's).
        String times = "SELECT TIMESTAMP '2026-01-02T03:04:05.678901' AS plain, arrow_cast('2026-01-02T03:04:05.678901Z', 'Timestamp(Microsecond, Some(\"UTC\"))') AS zoned, TIME '01:02:03.5' AS t";
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery(times)) {
            row.next();
            Timestamp wanted = Timestamp.from(Instant.parse("2026-01-02T03:04:05.678901Z"));
            same(row.getTimestamp("plain", Calendar.getInstance(TimeZone.getTimeZone("UTC"))), wanted);
            same(row.getTimestamp("zoned").toInstant(), wanted.toInstant());
            same(row.getString("t"), "01:02:03.500");
        }
        String nothing = "SELECT NULL::bigint AS a, NULL::double AS b, NULL::decimal(12,2) AS c, NULL::boolean AS d, NULL::varchar AS e, NULL::date AS f, NULL::timestamp AS g, arrow_cast(NULL, 'Binary') AS h, arrow_cast(NULL, 'List(Int64)') AS i, NULL AS j";
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery(nothing)) {
            row.next();
            for (int n = 1; n <= row.getMetaData().getColumnCount(); n++) {
                same(row.getObject(n), null);
                same(row.wasNull(), true);
                same(row.getString(n), null);
            }
        }
        try (Statement statement = connection.createStatement(); ResultSet none = statement.executeQuery("SELECT * FROM telemetry WHERE n < 0")) {
            same(none.getMetaData().getColumnName(1), "car_id");
            same(none.next(), false);
        }
    }

    interface Bind {
        void to(PreparedStatement statement) throws SQLException;
    }

    static String first(Connection connection, String sql, Bind bind) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            bind.to(statement);
            try (ResultSet rows = statement.executeQuery()) {
                return rows.next() ? rows.getString(1) : null;
            }
        }
    }

    static void parameters(Connection connection) throws SQLException {
        same(first(connection, "SELECT count(*) FROM telemetry WHERE speed > ?", row -> row.setDouble(1, 3.5)), "172");
        same(first(connection, "SELECT count(*) FROM telemetry WHERE n < ?", row -> row.setInt(1, 3)), "3");
        same(first(connection, "SELECT count(*) FROM telemetry WHERE n < ?", row -> row.setObject(1, 3L)), "3");
        same(first(connection, "SELECT count(*) FROM telemetry WHERE n IN (?, 3)", row -> row.setLong(1, 1)), "2");
        same(first(connection, "SELECT count(*) FROM telemetry WHERE moving = ?", row -> row.setBoolean(1, true)), "100");
        same(first(connection, "SELECT count(*) FROM telemetry WHERE day = ?", row -> row.setDate(1, Date.valueOf("2026-11-20"))), "67");
        same(first(connection, "SELECT count(*) FROM telemetry WHERE car_id LIKE ?", row -> row.setString(1, "car-0%")), "100");
        same(first(connection, "SELECT count(*) FROM moving WHERE price = ?", row -> row.setBigDecimal(1, new BigDecimal("1.10"))), "1");
        same(first(connection, "SELECT ?", row -> row.setString(1, "it's é")), "it's é");
        same(first(connection, "SELECT count(*) FROM telemetry WHERE n = ?", row -> row.setNull(1, Types.BIGINT)), "0");
        String many = "SELECT count(*) FROM telemetry WHERE n IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AND n < ?";
        same(first(connection, many, row -> {
            for (int n = 1; n <= 11; n++) {
                row.setLong(n, n);
            }
            row.setLong(12, 10);
        }), "9");
    }

    static void metadata(DatabaseMetaData meta) throws SQLException {
        same(meta.getDatabaseProductName(), "Millpond");
        same(meta.getIdentifierQuoteString(), "\"");
        same(meta.isReadOnly(), true);
        same(meta.supportsTransactions(), false);
        same(column(meta.getCatalogs(), "TABLE_CAT"), List.of("millpond"));
        same(Set.copyOf(column(meta.getSchemas(), "TABLE_SCHEM")).containsAll(Set.of("public", "system", "information_schema")), true);
        same(column(meta.getSchemas("millpond", "pub%"), "TABLE_SCHEM"), List.of("public"));
        same(column(meta.getTableTypes(), "TABLE_TYPE"), List.of("SYSTEM TABLE", "TABLE", "VIEW"));
        same(column(meta.getTables(null, "public", "%", null), "TABLE_NAME"), List.of("car_state", "moving", "telemetry"));
        same(column(meta.getTables(null, "public", null, new String[] {"VIEW"}), "TABLE_NAME"), List.of("moving"));
        same(column(meta.getTables("millpond", "pub%", "car\\_%", null), "TABLE_NAME"), List.of("car_state"));
        same(column(meta.getTables(null, null, "nope", null), "TABLE_NAME"), List.of());
        List<String> columns = new ArrayList<>();
        try (ResultSet rows = meta.getColumns(null, "public", "telemetry", "%")) {
            while (rows.next()) {
                columns.add(rows.getString("COLUMN_NAME") + " " + rows.getString("TYPE_NAME"));
                same(rows.getInt("ORDINAL_POSITION"), columns.size());
                same(rows.getString("IS_NULLABLE"), "YES");
            }
        }
        // 18.2.0 does not tell a timestamp with a time zone from one without.
        same(columns.get(1).startsWith("event_time TIMESTAMP"), true);
        columns.remove(1);
        same(columns.subList(0, 7), List.of("car_id VARCHAR", "speed DOUBLE", "day DATE", "n BIGINT", "gear BIGINT", "moving BOOLEAN", "price VARCHAR"));
        same(columns.contains("tags ARRAY"), true);
        try (ResultSet rows = meta.getColumns(null, "public", "moving", "pri%")) {
            same(rows.next(), true);
            same(rows.getInt("DATA_TYPE"), Types.DECIMAL);
            same(rows.getInt("COLUMN_SIZE"), 12);
            same(rows.getInt("DECIMAL_DIGITS"), 2);
            same(rows.next(), false);
        }
        same(column(meta.getPrimaryKeys(null, "public", "car_state"), "COLUMN_NAME"), List.of("car_id"));
        try (ResultSet rows = meta.getPrimaryKeys(null, "public", "telemetry")) {
            same(rows.next(), false);
        }
        meta.getImportedKeys(null, "public", "car_state").close();
        meta.getExportedKeys(null, "public", "car_state").close();
        meta.getIndexInfo(null, "public", "car_state", false, true).close();
        // The driver answers this one itself, with nothing.
        meta.getTypeInfo().close();
    }

    static void wrong(Connection connection) throws SQLException {
        String[][] cases = {
            {"SELECT * FROM nope", "table `nope` does not exist\n"},
            {"SELEC 1", "syntax error: expected an SQL statement, found SELEC"},
            {"SELECT nope FROM telemetry", "column `nope` does not exist\n  SELECT nope FROM telemetry\n         ^"},
            {"SELECT 1 / 0", "division by zero"},
            {"DELETE FROM telemetry", "DELETE is not allowed: SQL reads here and changes nothing"},
        };
        for (String[] one : cases) {
            try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(one[0])) {
                rows.next();
                throw new AssertionError(one[0] + " was answered");
            } catch (SQLException error) {
                contains(error.getMessage(), one[1]);
            }
        }
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("DELETE FROM telemetry");
            throw new AssertionError("rows were deleted");
        } catch (SQLException error) {
            contains(error.getMessage(), "DELETE is not allowed");
        }
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery("SELECT count(*) FROM telemetry")) {
            row.next();
            same(row.getLong(1), 200L);
        }
    }

    static void large(Connection connection) throws SQLException {
        String sql = "SELECT x, 'text ' || x AS t, CASE WHEN x % 3 > 0 THEN x END AS y FROM generate_series(1, 1000000) s(x)";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            long count = 0;
            long sum = 0;
            long nulls = 0;
            while (rows.next()) {
                count++;
                long x = rows.getLong(1);
                sum += x;
                if (count % 1000 == 0) {
                    same(rows.getString(2), "text " + x);
                }
                rows.getLong(3);
                nulls += rows.wasNull() ? 1 : 0;
            }
            same(List.of(count, sum, nulls), List.of(1_000_000L, 500_000_500_000L, 333_333L));
        }
        // One that is left after its first row, and one of which only so many are wanted.
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery("SELECT x FROM generate_series(1, 100000000) s(x)")) {
            same(rows.next(), true);
        }
        try (Statement statement = connection.createStatement()) {
            statement.setMaxRows(3);
            same(column(statement.executeQuery("SELECT n FROM telemetry ORDER BY n"), "n"), List.of("0", "1", "2"));
        }
    }

    static void catalog(String[] args) throws SQLException {
        Connection connection = connect(args, "&catalog=millpond");
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery("SELECT count(*) FROM public.telemetry")) {
            row.next();
            same(row.getLong(1), 200L);
        }
        try {
            connection.close();
        } catch (SQLException error) {
            // Drivers before 19 close the session twice, the second time over a channel that is shut.
            same(error.getMessage(), "Channel shutdown invoked");
        }
        try (Connection other = connect(args, "&catalog=nope")) {
            throw new AssertionError("a catalog that is not there was taken");
        } catch (SQLException error) {
            contains(error.getMessage(), "Cannot set session option for catalog");
        }
    }

    static void refused(String[] args) {
        String[][] accounts = {{args[2], "a wrong one"}, {"nobody", args[3]}};
        for (String[] account : accounts) {
            try (Connection connection = connect(args, "", account)) {
                throw new AssertionError(account[0] + " came in");
            } catch (Exception error) {
                contains(error.getMessage(), "user name or password is wrong");
            }
        }
        String[] plain = {args[0]};
        try (Connection connection = connect(plain, ""); Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery("SELECT 1")) {
            throw new AssertionError("somebody came in without TLS");
        } catch (Exception error) {
            // What it says depends on where the connection broke.
            contains(error.getClass().getName(), "Exception");
        }
    }

    static void typesFollowFromThePlace(String[] args) throws SQLException {
        try (Connection connection = connect(args, "")) {
            same(first(connection, "SELECT ?::bigint + 1", row -> row.setLong(1, 1)), "2");
            same(first(connection, "SELECT ?::date", row -> row.setDate(1, Date.valueOf("2026-11-20"))), "2026-11-20");
            same(first(connection, "SELECT n FROM telemetry ORDER BY n LIMIT ?", row -> row.setLong(1, 1)), "0");
            // The driver writes milliseconds whatever the unit of the parameter is.
            Timestamp at = Timestamp.from(Instant.parse("2026-11-20T23:00:10Z"));
            String before = "SELECT count(*) FROM telemetry WHERE event_time < ?";
            same(first(connection, before, row -> row.setTimestamp(1, at)), "10");
            same(first(connection, "SELECT n, n FROM telemetry WHERE n = ?", row -> row.setLong(1, 3)), "3");
            // Drivers before 18.3 look for no remarks.
            boolean reads = !connection.getMetaData().getDriverVersion().startsWith("18.2");
            try (ResultSet rows = connection.getMetaData().getColumns(null, "public", "telemetry", "speed")) {
                rows.next();
                same(rows.getString("REMARKS"), reads ? "km/h; NULL while parked" : null);
            }
        }
    }
}
