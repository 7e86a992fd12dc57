public class Probe {
    public static void main(String[] none) {
        jakarta.mail.Session.getInstance(System.getProperties());
    }
}
