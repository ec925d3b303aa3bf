/** Works until the agent beside it has sent what it saw at least once. */
public class Purchases {
    static double pay() {
        double sum = 0;
        for (int item = 1; item < 100_000; item++) {
            sum += Math.sqrt(item);
        }
        return sum;
    }

    public static void main(String[] arguments) {
        long until = System.nanoTime() + 4_000_000_000L;
        double sum = 0;
        while (System.nanoTime() < until) {
            sum += pay();
        }
        System.out.println("paid " + sum);
    }
}
