// Code that HotSpot makes while it runs. Usage: Made CPU_SECONDS [named], where `named` has it written down in a perf map as soon
// as it is made.
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

public final class Made {
    static int fib(int n) {
        return n < 2 ? n : fib(n - 1) + fib(n - 2);
    }

    static int sorted(int n) {
        List<String> words = new ArrayList<>();
        for (int i = 0; i < n; i++) {
            words.add(Integer.toString(i * 7919 % n));
        }
        Collections.sort(words);
        return words.get(n / 2).length();
    }

    static int once() {
        return fib(18) + sorted(500);
    }

    static double cpuSeconds() {
        return ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime() / 1e9;
    }

    static int until(double end) {
        int sum = 0;
        while (cpuSeconds() < end) {
            sum += once();
        }
        return sum;
    }

    public static void main(String[] arguments) throws Exception {
        double end = Double.parseDouble(arguments[0]);
        int sum = 0;
        if (arguments.length > 1) {
            sum += until(1);
            String pid = Long.toString(ProcessHandle.current().pid());
            int left = new ProcessBuilder("jcmd", pid, "Compiler.perfmap").inheritIO().start().waitFor();
            long bytes = Files.size(Path.of("/tmp/perf-" + pid + ".map"));
            if (left != 0 || bytes == 0) {
                System.out.println("jcmd ended with " + left + ", and the map has " + bytes + " bytes");
                System.exit(1);
            }
            // It may take two seconds to be noticed.
            end += 3;
        }
        System.out.println(sum + until(end));
    }
}
